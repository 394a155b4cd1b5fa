"""Authentication by API keys that clients send as bearer tokens (RFC 6750)."""

import hmac
from collections.abc import Sequence

from app.errors import Unauthorized


class ApiKeys:
    """The API keys that clients may send; without any the service is open."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def require(self, authorization: bytes | None) -> None:
        """Raise `Unauthorized` unless the Authorization header has one of the keys."""
        if authorization is None:
            raise Unauthorized("missing API key: send 'Authorization: Bearer KEY'")
        if not self._is_known(authorization.decode("latin-1")):
            raise Unauthorized("unknown API key in the Authorization header; expected 'Bearer KEY'")

    def _is_known(self, authorization: str) -> bool:
        """Compare with every key in constant time."""
        scheme, _, key = authorization.partition(" ")
        matches = [hmac.compare_digest(key.strip(" \t").encode("latin-1"), known) for known in self._keys]
        return scheme.lower() == "bearer" and any(matches)
