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
        scheme, _, key = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("missing scheme in the Authorization header; expected 'Bearer KEY'")
        if not self._is_known(key):
            raise Unauthorized("unknown API key in the Authorization header; expected 'Bearer KEY'")

    def _is_known(self, key: str) -> bool:
        """Compare with every key in constant time."""
        sent = key.strip(" \t").encode("latin-1")
        matches = [hmac.compare_digest(sent, known) for known in self._keys]
        return any(matches)
