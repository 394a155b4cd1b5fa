"""The words of the OpenAPI document: bodies and answers in every media type, problems, examples that fit the model."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from app import errors
from app.answers import PNG, PROBLEM
from app.images import FORMATS
from app.media import JSON, MULTIPART, NPY
from app.schemas import PICTURE, Images, LatentsIn, Problem
from model.config import VAEConfig

_BINARY = {"type": "string", "format": "binary"}
_PROBLEMS = {
    error.status: error
    for error in (
        errors.Malformed,
        errors.Unauthorised,
        errors.Forbidden,
        errors.NotAcceptable,
        errors.NotReloaded,
        errors.TooLarge,
        errors.UnsupportedMedia,
        errors.Unusable,
        errors.Overloaded,
        errors.HeadTooLarge,
        errors.Unavailable,
        errors.DeadlineExceeded,
    )
}
_FIELD = {"images": {"type": "array", "items": _BINARY, "minItems": 1}}


def _ref(schema: type) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}


IMAGES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One picture as it is, several as multipart or base64, many as a uint8 array [N, H, W(, C)]. "
        "The first bytes decide which it is, whatever the content type says; only multipart is told by its own.",
        "content": {
            MULTIPART: {"schema": {"type": "object", "properties": _FIELD, "required": ["images"]}},
            **{f"image/{kind}": {"schema": _BINARY} for kind in map(str.lower, FORMATS)},
            JSON: {**_ref(Images), "example": {"images": [PICTURE]}},
            NPY: {"schema": _BINARY},
        },
    }
}

LATENTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Latents, or an answer of /encode as it is, or a float32 array [N, ...]. "
        "An answer of another model, told by `model`, is refused.",
        "content": {JSON: _ref(LatentsIn), NPY: {"schema": _BINARY}},
    }
}

_SEED = {"headers": {"X-Seed": {"description": "the seed of the draws", "schema": {"type": "string"}}}}

NUMBERS_ANSWER: dict[str, Any] = {
    "description": "JSON, or a float32 array whose rows are mean, logvar and the draws: [2 + L, N, ...].",
    "content": {NPY: {"schema": _BINARY}},
    **_SEED,
}

SCORES_ANSWER: dict[str, Any] = {
    "description": "Nats, higher is better; estimates by `samples` draws, by one where none is asked for.",
    **_SEED,
}

IMAGES_ANSWER: dict[str, Any] = {
    "description": "One image alone, several as a grid without padding; or base64; or a uint8 array [N, H, W, C].",
    "content": {PNG: {"schema": _BINARY}, JSON: _ref(Images), NPY: {"schema": _BINARY}},
}

_TIMEOUT: dict[str, Any] = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "seconds that the caller is ready to wait, if fewer than the service allows; beyond them 504",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400},
    "example": 30,
}

DRAWN_ANSWER: dict[str, Any] = {**IMAGES_ANSWER, **_SEED}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers that go wrong with these statuses, as FastAPI's `responses`."""
    return {status: _problem(_PROBLEMS[status]) for status in (*statuses, errors.HeadTooLarge.status)}


def _problem(error: type[errors.ServiceError]) -> dict[str, Any]:
    detail = (error.__doc__ or "").rstrip(".")
    example = {"title": error.title, "status": error.status, "detail": detail, "error": detail}
    content = {**_ref(Problem), "example": {"type": error.urn(), **example, "request_id": "an-id"}}
    return {"description": error.title, "content": {PROBLEM: content}}


def describe(app: FastAPI, config: Callable[[], VAEConfig]) -> None:
    """Complete the application's document: the schemas that bodies refer to, and a latent of the served shape."""
    generate: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate())
        document = generate()
        body = document["paths"]["/decode"]["post"]["requestBody"]["content"][JSON]
        body["example"] = {"latents": [_example(config().latent_shape)]}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _complete(document: dict[str, Any]) -> None:
    for operation in (operation for methods in document["paths"].values() for operation in methods.values()):
        if "504" in operation["responses"]:
            operation.setdefault("parameters", []).append(_TIMEOUT)
    models: Any = [(schema, "validation") for schema in (Images, LatentsIn, Problem)]
    _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    document["components"]["schemas"].update(definitions["$defs"])


def _example(shape: tuple[int, ...]) -> Any:
    return np.round(np.sin(np.arange(prod(shape), dtype=float)), 2).reshape(shape).tolist()
