"""Problem details (RFC 9457): the response to every request that fails."""

from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.codecs.json_bytes import dump
from app.errors import MethodNotAllowed, NotFound, ServiceError

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


ErrorForm = Callable[[Problem], tuple[str, bytes]]
"""Returns the media type and the body of a response with a problem, in the form of a dialect."""


def problem_details(problem: Problem) -> tuple[str, bytes]:
    """Write a problem as RFC 9457 has it."""
    return PROBLEM, dump(problem.model_dump())


def problem(error: ServiceError, request_id: str, form: ErrorForm = problem_details) -> Response:
    """Return the response for an error, in the form of a dialect."""
    record = Problem(
        type=error.urn(),
        title=error.title,
        status=error.status,
        detail=error.detail,
        error=error.detail,
        request_id=request_id,
    )
    media_type, body = form(record)
    return Response(body, error.status, error.headers, media_type)


def routing_error(failure: HTTPException, path: str, method: str) -> ServiceError | None:
    """Return the error for a 404 or 405 of the router; None for any other exception."""
    if failure.status_code == 405 or path == "*":  # RFC 9110, 9.3.7: OPTIONS * asks about the whole server
        methods: Mapping[str, str] = failure.headers or {}
        allowed = ", ".join(sorted(methods["Allow"].split(", "))) if "Allow" in methods else "GET, HEAD, POST"
        return MethodNotAllowed(f"this path takes {allowed}, got {method}", headers={"Allow": allowed})
    return NotFound("no such path; /docs lists them all") if failure.status_code == 404 else None
