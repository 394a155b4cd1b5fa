"""Problem details (RFC 9457): the response to every request that fails, whatever its dialect."""

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.codecs.json_bytes import dump
from app.errors import MethodNotAllowed, NotFound, ServiceError
from app.validation import unusable

PROBLEM = "application/problem+json"


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=["urn:vae:problem:unusable-input"])
    title: str = Field(examples=["Unusable input"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["latents[0]: expected 32 numbers, got 31"])
    error: str = Field(description="the same as detail")
    request_id: str


def problem(error: ServiceError, request_id: str) -> Response:
    """Return the response for an error."""
    body = Problem(
        type=error.urn(),
        title=error.title,
        status=error.status,
        detail=error.detail,
        error=error.detail,
        request_id=request_id,
    )
    return Response(dump(body.model_dump()), error.status, error.headers, PROBLEM)


def as_service_error(failure: Exception) -> ServiceError | None:
    """Map an exception of FastAPI or Starlette to the error that is answered; None for an unexpected exception."""
    if isinstance(failure, ServiceError):
        return failure
    if isinstance(failure, RequestValidationError):
        return unusable(failure.errors())
    if isinstance(failure, HTTPException) and failure.status_code == 404:
        return NotFound("no such path; /docs lists them all")
    if isinstance(failure, HTTPException) and failure.status_code == 405:
        allowed = (failure.headers or {}).get("Allow", "")
        allowed = "GET, HEAD" if allowed == "GET" else allowed  # the shortcut makes a GET of a HEAD
        return MethodNotAllowed(f"this path takes {allowed} and no other method", headers={"Allow": allowed})
    return None
