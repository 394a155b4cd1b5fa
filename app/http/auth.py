"""Authentication by API keys, which clients send as bearer tokens (RFC 6750) or in Basic credentials (RFC 7617)."""

import hmac
from base64 import b64decode
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
        scheme, _, sent = authorization.partition(b" ")
        key = sent.strip(b" \t")
        if scheme.lower() != b"bearer":
            key = _key_of_basic(scheme, key)
        if not self._is_known(key):
            raise Unauthorized("unknown API key in the Authorization header; expected 'Bearer KEY'")

    def _is_known(self, sent: bytes) -> bool:
        """Compare with every key in constant time."""
        matches = [hmac.compare_digest(sent, known) for known in self._keys]
        return any(matches)


def _key_of_basic(scheme: bytes, credentials: bytes) -> bytes:
    """Return the password of Basic credentials, or their user name if they have no password.

    Clients that know nothing of API keys send them for a URL such as http://:KEY@host. Raises `Unauthorized`.
    """
    if scheme.lower() != b"basic":
        raise Unauthorized("missing scheme in the Authorization header; expected 'Bearer KEY'")
    try:
        user, colon, password = b64decode(credentials, validate=True).partition(b":")
    except ValueError:
        colon = b""
    if not colon:
        raise Unauthorized("malformed Basic credentials in the Authorization header; expected base64 of ':KEY'")
    return password or user
