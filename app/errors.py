"""Errors that clients see, each with its HTTP status.

ServiceError                        500
+-- BadRequest                      400   the bytes are not what their content type says
+-- Unauthorized                    401
+-- Forbidden                       403   the configuration does not allow it
+-- NotFound                        404
+-- MethodNotAllowed                405
+-- NotAcceptable                   406
+-- RequestTimeout                  408   the body makes no progress, and others need its memory
+-- ReloadFailed                    409   the model folder has no usable model; the served model stays
+-- ContentTooLarge                 413   bytes, pixels or items
+-- UriTooLong                      414
+-- UnsupportedMediaType            415
+-- UnprocessableContent            422   well-formed, but not valid for the model
|   +-- UnsupportedByModel          422   the model cannot do it
+-- QueueFull                       429   with Retry-After
+-- RequestHeaderFieldsTooLarge     431
+-- NotImplementedByServer          501   an unknown method or transfer coding
+-- Unavailable                     503   not ready, draining or overloaded; with Retry-After
+-- DeadlineExceeded                504
+-- VersionNotSupported             505   an unknown version of HTTP
"""

from typing import ClassVar

_NO_WORK = "the model is not ready: it is warming up, draining, or its device has stopped"


class ServiceError(Exception):
    """An error with a sentence for the client: `detail` says what was expected and what was given."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}

    @classmethod
    def urn(cls) -> str:
        """Return the identifier of the problem type."""
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
    """The configuration of the service does not allow it."""

    status = 403
    title = "Forbidden"


class NotFound(ServiceError):
    """No such path."""

    status = 404
    title = "Not found"


class MethodNotAllowed(ServiceError):
    """The path does not allow this method."""

    status = 405
    title = "Method not allowed"


class NotAcceptable(ServiceError):
    """The endpoint has no response in a media type of the Accept header."""

    status = 406
    title = "Not acceptable"


class RequestTimeout(ServiceError):
    """The body makes no progress while other requests are refused for lack of room (RFC 9110, 15.5.9)."""

    status = 408
    title = "Request timeout"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class ReloadFailed(ServiceError):
    """The model folder has no usable model; the served model stays."""

    status = 409
    title = "Not reloaded"


class ContentTooLarge(ServiceError):
    """More bytes, pixels or items than one request may have."""

    status = 413
    title = "Too large"


class UriTooLong(ServiceError):
    """The request target is too long."""

    status = 414
    title = "Target too long"


class UnsupportedMediaType(ServiceError):
    """The endpoint does not read this content type."""

    status = 415
    title = "Unsupported media type"


class UnprocessableContent(ServiceError):
    """Well-formed, but not valid for the model."""

    status = 422
    title = "Unusable input"


class UnsupportedByModel(UnprocessableContent):
    """The model cannot do it, such as draw from a posterior without a variance; GET /model has its capabilities."""

    title = "Unsupported by model"


class QueueFull(ServiceError):
    """The queue of the model is full."""

    status = 429
    title = "Queue full"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class RequestHeaderFieldsTooLarge(ServiceError):
    """The request headers are too large."""

    status = 431
    title = "Head too large"


class NotImplementedByServer(ServiceError):
    """The service does not know this method or transfer coding."""

    status = 501
    title = "Not implemented"


class Unavailable(ServiceError):
    """The service is not ready, draining or overloaded."""

    status = 503
    title = "Not available"

    def __init__(self, detail: str = _NO_WORK, *, retry_after: int = 1, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after), **(headers or {})})


class DeadlineExceeded(ServiceError):
    """The deadline of the request has passed."""

    status = 504
    title = "Deadline exceeded"


class VersionNotSupported(ServiceError):
    """The service does not support this version of HTTP."""

    status = 505
    title = "HTTP version not supported"
