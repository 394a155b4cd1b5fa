"""What the OpenAPI document says of the diffusers dialect."""

from typing import Any

from app.api.openapi import BINARY, OCTETS, problems
from app.api.remote_vae.images import TENSOR
from app.codecs.images import FORMATS
from app.codecs.media_types import JPEG, PNG

_PROBLEMS = problems(400, 401, 404, 406, 408, 413, 415, 422, 429, 503, 504)

_TENSOR_HEADERS = {
    "shape": {"description": "dimensions of the tensor as JSON: [1, 4, 64, 64]", "schema": {"type": "string"}},
    "dtype": {"description": "data type of the tensor", "schema": {"type": "string"}},
}


def _body(description: str, *media_types: str) -> dict[str, Any]:
    content = {media_type: {"schema": BINARY} for media_type in media_types}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _response(description: str, *media_types: str) -> dict[str, Any]:
    content = {media_type: {"schema": BINARY} for media_type in media_types}
    return {"description": description, "headers": _TENSOR_HEADERS, "content": content}


DECODE: dict[str, Any] = {
    "openapi_extra": _body("Little-endian numbers of `shape` and `dtype`.", TENSOR, OCTETS),
    "responses": {
        200: _response(
            "`pil`: an image file by `Accept` and `image_format`, several images as a grid; with `Accept: "
            "tensor/binary` floats in [0, 1], [N, C, H, W]. `pt`: floats in [-1, 1], or with `partial_postprocess` "
            "uint8 [N, H, W, C]. A tensor has its shape and data type in the headers.",
            JPEG,
            PNG,
            TENSOR,
        ),
        **_PROBLEMS,
    },
}

ENCODE: dict[str, Any] = {
    "openapi_extra": _body(
        "An image file, or with `shape` and `dtype` little-endian numbers.",
        TENSOR,
        OCTETS,
        *(f"image/{kind.lower()}" for kind in FORMATS),
    ),
    "responses": {200: _response("Scaled latents [N, C, h, w].", TENSOR), **_PROBLEMS},
}
