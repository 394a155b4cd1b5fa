"""What the OpenAPI document says of the Open Inference Protocol."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from app import errors
from app.api.kserve.schemas import InferenceError, InferenceResponse
from app.api.kserve.wire import JSON_LENGTH
from app.api.openapi import HEADERS, OCTETS, PROBLEMS
from app.api.schemas import EXAMPLE_PNG
from app.codecs.media_types import JSON

HIDDEN: Mapping[str, Any] = {"include_in_schema": False}
"""Options of other paths of an endpoint, which the document has once."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}

_LENGTH = {
    "description": "bytes of the JSON, if the elements of tensors follow it as binary data",
    "schema": {"type": "integer", "minimum": 0},
}

_PATH = {"in": "path", "required": True, "schema": {"type": "string"}, "example": "encode"}
NAME: dict[str, Any] = {**_PATH, "name": "name", "description": "encode, decode, reconstruct, sample or score"}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses to failures with these statuses and those of every endpoint, as FastAPI's `responses`."""
    everywhere = (errors.RequestHeaderFieldsTooLarge.status, errors.ServiceError.status)
    return {
        status: {
            "model": InferenceError,
            "description": f"{PROBLEMS[status].title}.",
            "headers": {**HEADERS.get(status, {})},
        }
        for status in sorted({*statuses, *everywhere})
    }


def about_model(schema: type[BaseModel] | None, *statuses: int) -> dict[str, Any]:
    """Return the options of an endpoint that describes the model in its path."""
    responses = failures(401, 404, 413, 422, 503, *statuses)
    return {"response_model": schema, "responses": responses, "openapi_extra": {"parameters": [NAME]}}


def about_server(schema: Any, *statuses: int) -> dict[str, Any]:
    """Return the options of an endpoint that describes the server."""
    return {"response_model": schema, "responses": failures(*statuses)}


_IMAGE = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PNG]}]}
_EXAMPLES: Mapping[str, Any] = {
    "encode": _IMAGE,
    "reconstruct": _IMAGE,
    "sample": {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [1]}]},
    "score": _IMAGE,
}
"""Requests that work with any model that can do it; latents depend on the model."""


def infer(name: str) -> dict[str, Any]:
    """Return the options of the endpoint that computes a model."""
    example = {"example": _EXAMPLES[name]} if name in _EXAMPLES else {}
    json = {"schema": {"$ref": "#/components/schemas/InferenceRequest"}, **example}
    body = "JSON; the elements of tensors may follow it as binary data."
    return {
        "response_model": InferenceResponse,
        "openapi_extra": {
            "requestBody": {"required": True, "description": body, "content": {JSON: json, OCTETS: _BINARY}},
            "parameters": [{"name": JSON_LENGTH, "in": "header", **_LENGTH}],
        },
        "responses": {
            200: {
                "description": "JSON; the elements of tensors follow it as binary data if the request asks for that.",
                "headers": {JSON_LENGTH: _LENGTH},
                "content": {OCTETS: _BINARY},
            },
            **failures(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
        },
    }


INDEX: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": False,
            "description": "Nothing, or which models to list.",
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/IndexRequest"}}},
        }
    }
}
