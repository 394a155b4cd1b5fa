"""Open Inference Protocol v2, the REST dialect of KServe and Triton, with binary tensor data."""

from app.api.dialect import Dialect
from app.api.kserve.endpoints import ENDPOINTS
from app.api.kserve.schemas import IndexRequest, InferenceError, InferenceRequest
from app.codecs.json_bytes import dump
from app.codecs.media_types import JSON
from app.http.problems import Problem


def inference_error(problem: Problem) -> tuple[str, bytes]:
    """Write a problem as the protocol has it: {"error": ...}."""
    return JSON, dump(InferenceError(error=problem.detail).model_dump())


DIALECT = Dialect(
    "kserve",
    "/v2",
    ENDPOINTS,
    "Open Inference Protocol v2, for the clients of KServe and Triton.",
    inference_error,
    (InferenceRequest, IndexRequest),
)
