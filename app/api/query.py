"""Query parameters of the endpoints. Unknown and repeated names are refused, so that typing errors are reported."""

import re
from collections.abc import Container, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.codecs.images import Fit
from app.codecs.lossy import DEFAULT_QUALITY
from app.errors import UnprocessableContent
from app.validation import quoted, unprocessable

MAX_NAMES_LISTED = 8
"""Unknown parameters that an error lists."""

MAX_NUMBER_LENGTH = 128
"""Characters of a number, so that none takes long to read."""

_INTEGER = re.compile(r"-?[0-9]++")
_DECIMAL = re.compile(r"-?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")  # no digit is read twice


def _require_digits(text: Any) -> Any:
    """Refuse the other spellings of an integer that pydantic reads: `1.0`, `+3`, `1_0`, blanks around it, booleans."""
    _require_short(text)
    if isinstance(text, bool) or (isinstance(text, str) and not _INTEGER.fullmatch(text)):
        raise ValueError("expected a valid integer of digits alone")
    return text


def require_decimal(text: Any) -> Any:
    """Refuse the other spellings of a number that pydantic reads: `1_0`, `inf`, `nan`, and blanks around it."""
    _require_short(text)
    if isinstance(text, str) and not _DECIMAL.fullmatch(text):
        raise ValueError("expected a finite number such as 0.7")
    return text


def _require_short(text: Any) -> None:
    if isinstance(text, str) and len(text) > MAX_NUMBER_LENGTH:
        raise ValueError(f"expected a number of at most {MAX_NUMBER_LENGTH} characters")


def _require_boolean(text: Any) -> Any:
    """Refuse the other spellings of a boolean that pydantic reads: `1`, `yes`, `on`."""
    if isinstance(text, str) and text not in ("true", "false"):
        raise ValueError("expected true or false")
    return text


_SEED = (
    "from 0 to 2^63 - 1; the same seed gives the same bytes; a seed that the service chose is in X-Seed. The draws of "
    "/score follow from the seed and the pixels of each image. Elsewhere images that are sent one by one with one seed "
    "all get the same draw: for independent draws send them together, or each with its own seed"
)

Integer = Annotated[int, BeforeValidator(_require_digits)]
Seed = Annotated[
    Annotated[Integer, Field(ge=0, lt=2**63)] | None,
    BeforeValidator(lambda text: None if text == "" else text),
    Field(description=_SEED),
]
Samples = Annotated[Integer | None, Field(ge=1, description="draws from the posterior of each image")]
Alpha = Annotated[
    float | None,
    BeforeValidator(require_decimal),
    Field(gt=0, lt=1, allow_inf_nan=False, description="mark images with a typicality of at most alpha as anomalous"),
]
Count = Annotated[Integer, Field(ge=1, description="how many images")]
Temperature = Annotated[
    float,
    BeforeValidator(require_decimal),
    Field(ge=0, le=10, allow_inf_nan=False, description="scales the prior's deviation"),
]
Columns = Annotated[
    Integer | None, Field(ge=1, description="images in a row of the grid; by default it is about square")
]
FitTo = Annotated[Fit, Field(description="how an image of another size is fitted to the size of the model")]
Quality = Annotated[Integer, Field(ge=1, le=100, description="quality of an answer as JPEG or WebP")]
Side = Annotated[
    Integer | None,
    Field(
        ge=1,
        description="pixels of the images of a model of many sizes; by default those of the image, or of the model",
    ),
]
Boolean = Annotated[bool, BeforeValidator(_require_boolean)]
Scaled = Annotated[
    Boolean, Field(description="latents in the units of the diffusion model, (z - shift) * scale, as /model names them")
]
Encoding = Annotated[
    Literal["float", "base64"],
    Field(description="latents in JSON as numbers, or as little-endian float32 in base64, which is smaller and faster"),
]
Steps = Annotated[Integer, Field(ge=2, description="how many images, with those of both ends")]
Mode = Annotated[
    Literal["linear", "slerp"],
    Field(description="along the straight line between two latents, or the great circle (Shoemake, 1985)"),
]
Force = Annotated[
    Boolean, Field(description="decode draws from N(0, I) even if the latents of the model are not distributed so")
]


Output = Annotated[
    Literal["image", "error"],
    Field(
        description="the reconstruction, or a map of the deviations from it: in colour, black where there is none, or "
        "as a float32 array of signed numbers; in standard deviations of p(x|z), without a scale in pixel values"
    ),
]


class Query(BaseModel):
    """Query parameters of an endpoint that has none. The values of a `repeatable` one are joined by commas."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    repeatable: ClassVar[Container[str]] = ()


class ImagesQuery(Query):
    """Query parameters of the endpoints that take images."""

    fit: FitTo = "resize"
    height: Side = None
    width: Side = None


class DrawsQuery(ImagesQuery):
    """Query parameters of the endpoints that draw from the posteriors of images."""

    samples: Samples = None
    seed: Seed = None


class ScoreQuery(DrawsQuery):
    """Query parameters of /score."""

    alpha: Alpha = None


class EncodeQuery(DrawsQuery):
    """Query parameters of /encode."""

    scaled: Scaled = False
    encoding: Encoding = "float"


class DecodeQuery(Query):
    """Query parameters of /decode."""

    columns: Columns = None
    quality: Quality = DEFAULT_QUALITY
    scaled: Scaled | None = None


class ReconstructQuery(ImagesQuery):
    """Query parameters of /reconstruct."""

    output: Output = "image"
    columns: Columns = None
    seed: Seed = None
    quality: Quality = DEFAULT_QUALITY


class InterpolateQuery(ImagesQuery):
    """Query parameters of /interpolate."""

    steps: Steps = 9
    mode: Mode = "linear"
    columns: Columns = None
    scaled: Scaled | None = None
    quality: Quality = DEFAULT_QUALITY


class SampleQuery(Query):
    """Query parameters of /sample."""

    n: Count = 16
    temperature: Temperature = 1.0
    columns: Columns = None
    seed: Seed = None
    force: Force = False
    height: Side = None
    width: Side = None
    quality: Quality = DEFAULT_QUALITY


Q = TypeVar("Q", bound=Query)


def without_parameters(schema: type[Q]) -> Q | None:
    """Return the query of a request without parameters; None if the schema requires some."""
    required = any(field.is_required() for field in schema.model_fields.values())
    return None if required else schema()


def parse_query(schema: type[Q], query_string: bytes) -> Q:
    """Parse and validate a query string; raises `UnprocessableContent`."""
    values: dict[str, str] = {}
    unknown: dict[str, None] = {}  # in the order of the query
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name not in schema.model_fields:
            unknown[name] = None
        elif name in values:
            if name not in schema.repeatable:
                raise UnprocessableContent(f"query: expected each parameter once, got {quoted(name)} more than once")
            value = f"{values[name]},{value}"  # noqa: PLW2901  # a request has few parameters
        values[name] = value
    if unknown:
        raise _unknown_parameters([*unknown], schema)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise unprocessable(error.errors(include_url=False), schema) from None


def _unknown_parameters(names: Sequence[str], schema: type[Query]) -> UnprocessableContent:
    listed = ", ".join(map(quoted, names[:MAX_NAMES_LISTED])) + (", ..." if len(names) > MAX_NAMES_LISTED else "")
    known = ", ".join(schema.model_fields) or "none"
    return UnprocessableContent(f"query: unknown parameter{'s' * (len(names) > 1)} {listed}; known are {known}")
