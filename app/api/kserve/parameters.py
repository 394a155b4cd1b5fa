"""Parameters of requests: those of the models, as the query has them elsewhere, and those of the protocol."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from app.api.kserve.schemas import Parameters
from app.api.query import (
    Count,
    DrawsQuery,
    Force,
    ImagesQuery,
    Quality,
    Query,
    Scaled,
    ScoreQuery,
    Seed,
    Side,
    Temperature,
)
from app.codecs.lossy import DEFAULT_QUALITY
from app.errors import UnprocessableContent
from app.validation import describe_value, quoted, unprocessable

BINARY_OUTPUT, TIMEOUT = "binary_data_output", "timeout"

_RESERVED = (
    BINARY_OUTPUT,
    TIMEOUT,
    "priority",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "headers",
    "content_type",
)
"""Parameters of the protocol and of its clients; those of sequences and priorities have no effect here."""

_RESERVED_PREFIX = "triton_"

MAX_TEXT_LENGTH = 1024
"""Characters of a text in the parameters of a model, which is validated on the event loop."""

FloatType = Annotated[Literal["FP32", "FP16", "BF16"], Field(description="data type of the outputs")]
ImageFormat = Annotated[
    Literal["array", "png", "jpeg", "webp"],
    Field(description="images as an array UINT8 [N, H, W, C], or as files, BYTES [N]"),
]

Q = TypeVar("Q", bound=Query)


class EncodeParameters(DrawsQuery):
    """Parameters of the model encode."""

    scaled: Scaled = False
    datatype: FloatType = "FP32"


class ImagesForm(Query):
    """Parameters of the form of images in a response."""

    format: ImageFormat = "array"
    quality: Quality = DEFAULT_QUALITY


class DecodeParameters(ImagesForm):
    """Parameters of the model decode."""

    scaled: Scaled = False


class ReconstructParameters(ImagesQuery, ImagesForm):
    """Parameters of the model reconstruct."""

    seed: Seed = None


class SampleParameters(ImagesForm):
    """Parameters of the model sample; the input n counts before the parameter."""

    n: Count = 16
    temperature: Temperature = 1.0
    seed: Seed = None
    force: Force = False
    height: Side = None
    width: Side = None


ScoreParameters = ScoreQuery


def read_parameters(schema: type[Q], sent: Parameters) -> Q:
    """Validate the parameters of a model; raises `UnprocessableContent`."""
    own = {name: value for name, value in sent.items() if not _is_reserved(name)}
    unknown = next((name for name in own if name not in schema.model_fields), None)
    if unknown is not None:
        known = ", ".join(schema.model_fields)
        raise UnprocessableContent(f"parameters: unknown parameter {quoted(unknown)}; known are {known}")
    for name, value in own.items():
        if isinstance(value, str) and len(value) > MAX_TEXT_LENGTH:
            expected = f"expected at most {MAX_TEXT_LENGTH} characters, got {len(value)}"
            raise UnprocessableContent(f"parameters.{name}: {expected}")
    try:
        return schema.model_validate(own)
    except ValidationError as error:
        raise UnprocessableContent(f"parameters.{unprocessable(error.errors(include_url=False)).detail}") from None


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.startswith(_RESERVED_PREFIX)


def flag(parameters: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    """Return a boolean parameter; raises `UnprocessableContent` for another value."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise UnprocessableContent(f"{where}.{name}: expected true or false, got {describe_value(value)}")
    return value


def timeout_seconds(parameters: Mapping[str, Any]) -> float | None:
    """Return the timeout in seconds, which clients send in microseconds; None without one, as 0 is.

    Raises `UnprocessableContent` for another value than an integer from 0.
    """
    value = parameters.get(TIMEOUT) or 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        got = describe_value(value)
        raise UnprocessableContent(f"parameters.{TIMEOUT}: expected microseconds, an integer from 0, got {got}")
    return value / 1e6 if value else None
