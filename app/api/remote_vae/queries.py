"""Query parameters of the diffusers dialect. `requests` writes the booleans of Python: True and False."""

from collections.abc import Container
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from app.api.query import Integer, Query, require_decimal
from app.codecs.images import MAX_SIDE
from app.codecs.tensors import MAX_DIMENSIONS
from model.interface import LatentScaling

MAX_FACTOR = 1e6
"""Largest factor and shift, and the inverse of the smallest factor; those of known models are from 0.01 to 10."""

_BOOLEANS = {"True": True, "true": True, "False": False, "false": False}


def _python_boolean(text: Any) -> Any:
    if isinstance(text, str) and text not in _BOOLEANS:
        raise ValueError("expected True or False")
    return _BOOLEANS.get(text, text) if isinstance(text, str) else text


def _separate(text: Any) -> Any:
    if isinstance(text, str) and text.count(",") >= MAX_DIMENSIONS:
        raise ValueError(f"expected 1 to {MAX_DIMENSIONS} dimensions, got {text.count(',') + 1}")
    return tuple(text.split(",")) if isinstance(text, str) else text


def _require_factor(value: float | None) -> float | None:
    if value is not None and not 1 / MAX_FACTOR <= abs(value) <= MAX_FACTOR:
        raise ValueError(f"expected a number from {1 / MAX_FACTOR:g} to {MAX_FACTOR:g}, positive or negative")
    return value


Boolean = Annotated[bool, BeforeValidator(_python_boolean)]
Shape = Annotated[
    tuple[Integer, ...],
    BeforeValidator(_separate),
    Field(description="the dimensions of the tensor, as shape=1&shape=4"),
]
DataType = Annotated[
    Literal["float16", "bfloat16", "float32", "uint8"],
    Field(description="the data type of the tensor: float16, bfloat16, float32 or uint8"),
]
Finite = Annotated[float | None, BeforeValidator(require_decimal), Field(ge=-MAX_FACTOR, le=MAX_FACTOR)]
Side = Annotated[
    Integer | None, Field(ge=1, le=MAX_SIDE, description="pixels of the images of packed latents [B, N, 4 * C]")
]
Binary = Annotated[Literal["binary"], Field(description="raw bytes, the only way that is left in diffusers")]


class ScalingQuery(Query):
    """The scaling of latents; without any of the parameters there is none."""

    repeatable: ClassVar[Container[str]] = ("shape",)

    scaling_factor: Annotated[Finite, AfterValidator(_require_factor)] = None
    shift_factor: Finite = None
    do_scaling: Annotated[Boolean, Field(description="the scaling of the model, as /model names it")] = False

    def scaling(self, own: LatentScaling) -> LatentScaling:
        """Return the scaling of a request: the factors that it has, and with `do_scaling` the model's `own` ones."""
        base = own if self.do_scaling else LatentScaling()
        scale = base.scale if self.scaling_factor is None else (self.scaling_factor,)
        shift = base.shift if self.shift_factor is None else (self.shift_factor,)
        return LatentScaling(scale, shift, base.patch)


class DecodeQuery(ScalingQuery):
    """Query parameters of /diffusers/decode."""

    shape: Shape
    dtype: DataType
    output_type: Literal["pil", "pt", "mp4"] = "pil"
    image_format: Literal["jpg", "png"] = "jpg"
    partial_postprocess: Annotated[Boolean, Field(description="with pt: uint8 [N, H, W, C]")] = False
    height: Side = None
    width: Side = None
    input_tensor_type: Binary = "binary"
    output_tensor_type: Binary = "binary"


class EncodeQuery(ScalingQuery):
    """Query parameters of /diffusers/encode; without a shape the body is an image file."""

    shape: Shape | None = None
    dtype: DataType | None = None
    input_tensor_type: Binary = "binary"
    output_tensor_type: Binary = "binary"
