"""What can go wrong, drawn as a tree, each with the status that a caller sees.

ServiceError                        500
+-- Malformed                       400   the bytes are not what their content type says
+-- Unauthorised                    401
+-- Forbidden                       403   nobody may do this here
+-- NotFound                        404
+-- MethodNotAllowed                405
+-- NotAcceptable                   406
+-- RequestTimeout                  408   the body makes no progress, and others need its room
+-- NotReloaded                     409   the model's folder holds nothing to serve; the old one goes on
+-- TooLarge                        413   bytes, pixels or items
+-- TargetTooLong                   414   a request target longer than any that the service has
+-- UnsupportedMedia                415
+-- Unusable                        422   well-formed, but nothing that the model can work on
+-- Overloaded                      429   the queue is full; says when to come back
+-- HeadTooLarge                    431
+-- NotImplementedHere              501   a method or a transfer coding that the service does not know
+-- Unavailable                     503   not ready yet, or draining; says when to come back
+-- DeadlineExceeded                504
+-- VersionNotSupported             505   a version of HTTP that the service does not speak
"""

from typing import ClassVar

_NO_WORK = "the model takes no work: it is warming up, draining, or its device has stopped"


class ServiceError(Exception):
    """A failure with a sentence for the client: `detail` says what was expected and what came, bounded and quoted."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}

    @classmethod
    def urn(cls) -> str:
        """The problem's identifier."""
        return f"urn:vae:problem:{cls.title.lower().replace(' ', '-')}"


class BadRequest(ServiceError):
    """The body is not what its content type says."""

    status = 400
    title = "Malformed request"


class Unauthorized(ServiceError):
    """The key is missing or unknown."""

    status = 401
    title = "Unauthorised"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ServiceError):
    """Nobody may do this, as the service is configured."""

    status = 403
    title = "Forbidden"


class NotFound(ServiceError):
    """No such path."""

    status = 404
    title = "Not found"


class MethodNotAllowed(ServiceError):
    """The path is there, but not for this method."""

    status = 405
    title = "Method not allowed"


class NotAcceptable(ServiceError):
    """The answer cannot be given in any media type of the Accept header."""

    status = 406
    title = "Not acceptable"


class RequestTimeout(ServiceError):
    """The body makes no progress while other requests are refused for lack of room (RFC 9110, 15.5.9)."""

    status = 408
    title = "Request timeout"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class ReloadFailed(ServiceError):
    """The model's folder holds nothing that can be served; the model that was served goes on."""

    status = 409
    title = "Not reloaded"


class ContentTooLarge(ServiceError):
    """More bytes, pixels or items than the service takes at once."""

    status = 413
    title = "Too large"


class UriTooLong(ServiceError):
    """A request target that is longer than a head may be."""

    status = 414
    title = "Target too long"


class UnsupportedMediaType(ServiceError):
    """A content type that the endpoint does not read."""

    status = 415
    title = "Unsupported media type"


class UnprocessableContent(ServiceError):
    """Well-formed, but nothing that the model can work on."""

    status = 422
    title = "Unusable input"


class QueueFull(ServiceError):
    """The queue is full."""

    status = 429
    title = "Queue full"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class RequestHeaderFieldsTooLarge(ServiceError):
    """More bytes before the body than a request line and its headers need."""

    status = 431
    title = "Head too large"


class NotImplementedByServer(ServiceError):
    """A method or a transfer coding that the service does not know."""

    status = 501
    title = "Not implemented"


class Unavailable(ServiceError):
    """Not ready yet, or no longer."""

    status = 503
    title = "Not available"

    def __init__(self, detail: str = _NO_WORK, *, retry_after: int = 1, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after), **(headers or {})})


class DeadlineExceeded(ServiceError):
    """The answer would have come too late."""

    status = 504
    title = "Deadline exceeded"


class VersionNotSupported(ServiceError):
    """A version of HTTP that the service does not speak."""

    status = 505
    title = "HTTP version not supported"
