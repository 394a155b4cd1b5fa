"""OpenAPI document: bodies and responses in every media type, problem details, examples of the served model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import cleandoc
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp

from app import errors
from app.api.endpoint import Endpoint, EndpointRouter
from app.api.examples import Examples, examples_of
from app.api.query import SampleQuery
from app.api.schemas import Images, LatentsIn
from app.codecs.images import FORMATS
from app.codecs.json_bytes import dump
from app.codecs.media_types import JPEG, JSON, MULTIPART, NPY, PNG, WEBP
from app.http.problems import PROBLEM, Problem
from model.interface import ModelSpec

OCTETS = "application/octet-stream"

_TAGS: list[dict[str, Any]] = [
    {"name": "model", "description": "What the model does: encode, decode, reconstruct, sample, score."},
    {"name": "operations", "description": "For operators: probes, metrics, and the reload of the model."},
]
"""The groups of the endpoints."""

_SERVERS: list[dict[str, Any]] = [{"url": "/", "description": "The service that this document comes from."}]
_LICENSE = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}

BINARY = {"type": "string", "format": "binary"}
PROBLEMS = {
    error.status: error
    for error in (
        errors.ServiceError,
        errors.BadRequest,
        errors.Unauthorized,
        errors.Forbidden,
        errors.NotFound,
        errors.NotAcceptable,
        errors.RequestTimeout,
        errors.ReloadFailed,
        errors.ContentTooLarge,
        errors.UnsupportedMediaType,
        errors.UnprocessableContent,
        errors.QueueFull,
        errors.RequestHeaderFieldsTooLarge,
        errors.Unavailable,
        errors.DeadlineExceeded,
    )
}
"""The errors that the document describes, by status."""

_FIELD = {"images": {"type": "array", "items": BINARY}}


def _ref(schema: type) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}


IMAGES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image file, several in multipart or base64, or many in a uint8 array [N, H, W(, C)]. "
        "The first bytes of the body decide the format, not the content type; only multipart needs its own.",
        "content": {
            MULTIPART: {"schema": {"type": "object", "properties": _FIELD, "required": ["images"]}},
            **{f"image/{kind}": {"schema": BINARY} for kind in map(str.lower, FORMATS)},
            JSON: _ref(Images),
            NPY: {"schema": BINARY},
            OCTETS: {"schema": BINARY},
        },
    }
}

LATENTS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Latents, a response of /encode, or a float32 array [N, ...]. A response of /encode as .npy is "
        "an array [2 + L, N, ...] of means, logvars and L draws. Of a response the means are decoded. "
        "A response of another model, by its `model`, is refused.",
        "content": {JSON: _ref(LatentsIn), NPY: {"schema": BINARY}, OCTETS: {"schema": BINARY}},
    }
}

ENDS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Two images, or two latents, in the forms of /encode and /decode; an array of uint8 has images, "
        "one of floats latents.",
        "content": {
            MULTIPART: IMAGES_BODY["requestBody"]["content"][MULTIPART],
            JSON: {"schema": {"anyOf": [_ref(Images)["schema"], _ref(LatentsIn)["schema"]]}},
            NPY: {"schema": BINARY},
            OCTETS: {"schema": BINARY},
        },
    }
}

PARAMETERS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "The parameters of the query as an object.",
        "content": {JSON: {**_ref(SampleQuery), "example": {"n": 4, "seed": 7}}},
    }
}

_SEED = {"headers": {"X-Seed": {"description": "the seed of the draws", "schema": {"type": "string"}}}}

LATENTS_RESPONSE: dict[str, Any] = {
    "description": "JSON, or a float32 array of mean, logvar and the draws: [2 + L, N, ...].",
    "content": {NPY: {"schema": BINARY}},
    **_SEED,
}

SCORES_RESPONSE: dict[str, Any] = {
    "description": "Nats, higher is better; estimates by `samples` draws, by default eight.",
    **_SEED,
}

IMAGES_RESPONSE: dict[str, Any] = {
    "description": "A PNG file, several images as a grid without padding; or base64; or a uint8 array [N, H, W, C].",
    "content": {kind: _ref(Images) if kind == JSON else {"schema": BINARY} for kind in (PNG, JSON, NPY, JPEG, WEBP)},
}

_TIMEOUT: dict[str, Any] = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "deadline in seconds, if shorter than the one of the service; beyond it 504",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400},
    "example": 30,
}

_REQUEST_ID: dict[str, Any] = {
    "description": "id of the request, from the client or chosen by the service; it is in the log",
    "schema": {"type": "string"},
}

_RETRY: dict[str, Any] = {
    "Retry-After": {"description": "seconds after which to send the request again", "schema": {"type": "integer"}}
}

HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "the scheme, Bearer", "schema": {"type": "string"}}},
    429: _RETRY,
    503: _RETRY,
}

SEEDED_IMAGES_RESPONSE: dict[str, Any] = {**IMAGES_RESPONSE, **_SEED}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the problems of these statuses and those of every endpoint, as FastAPI's `responses`."""
    everywhere = (errors.RequestHeaderFieldsTooLarge.status, errors.ServiceError.status)
    return {status: _problem(PROBLEMS[status]) for status in sorted({*statuses, *everywhere})}


def _problem(error: type[errors.ServiceError]) -> dict[str, Any]:
    detail = (error.__doc__ or "").partition("\n")[0].rstrip(".")
    example = {"title": error.title, "status": error.status, "detail": detail, "error": detail}
    content = {**_ref(Problem), "example": {"type": error.urn(), **example, "request_id": "an-id"}}
    headers = {"headers": HEADERS[error.status]} if error.status in HEADERS else {}
    description = f"{error.title}: `{error.urn()}`"
    return {"description": description, **headers, "content": {PROBLEM: content}}


def documentation(endpoints: Iterable[Endpoint], tag: str, *, requires_key: bool = False) -> APIRouter:
    """Return FastAPI routes for the OpenAPI document; the routes of `app.api.endpoint` answer the requests."""
    security = [Depends(HTTPBearer(auto_error=False))] if requires_key else []
    router = APIRouter(tags=[tag], dependencies=security)
    for endpoint in endpoints:
        router.add_api_route(
            endpoint.path,
            _documented(endpoint),
            methods=[endpoint.method],
            name=endpoint.name,
            description=cleandoc(endpoint.handler.__doc__ or ""),
            operation_id=endpoint.name,
            **{"response_class": Response, **_with_json_class(endpoint.documentation)},
        )
    return router


class DocumentedApplication(FastAPI):
    """FastAPI application with a complete OpenAPI document: all bodies, problems, and examples of the served model.

    `spec` returns the properties of the served model. `documented` returns the routers of the document; it is called
    when the document is first asked for, as their fields take a third of the start of a small model to build. `tags`
    describe more groups of endpoints, `schemas` are those of their bodies.
    """

    def __init__(
        self,
        *,
        spec: Callable[[], ModelSpec],
        documented: Callable[[], Iterable[APIRouter]],
        tags: Mapping[str, str],
        schemas: Sequence[type[BaseModel]] = (),
        **options: Any,
    ) -> None:
        super().__init__(
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            license_info=_LICENSE,
            openapi_tags=[*_TAGS, *({"name": name, "description": text} for name, text in tags.items())],
            servers=_SERVERS,
            **options,
        )
        self._spec = spec
        self._documented = documented
        self._bodies: list[type[BaseModel]] = [Images, LatentsIn, SampleQuery, Problem, *schemas]
        self._example_model = ""
        self._json: dict[str, bytes] = {}

    def build_middleware_stack(self) -> ASGIApp:
        """Return the endpoints inside the middleware that was added, without that of Starlette and FastAPI.

        The lifecycle middleware answers all exceptions, and the endpoints need no other middleware.
        """
        app: ASGIApp = EndpointRouter(self.router, self.routes)
        for middleware in reversed(self.user_middleware):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app

    def openapi(self) -> dict[str, Any]:
        """Return the document, with examples of the served model."""
        if self.openapi_schema is None:
            self.openapi_schema = get_openapi(
                title=self.title,
                version=self.version,
                description=self.description,
                license_info=self.license_info,
                routes=[route for router in self._documented() for route in router.routes],
                tags=self.openapi_tags,
                servers=self.servers,
            )
            _complete(self.openapi_schema, self._bodies)
        document = self.openapi_schema
        spec = self._spec()
        if spec.identity != self._example_model:
            _add_examples(document, examples_of(spec))
            self._example_model = spec.identity
            self._json.clear()
        return document

    def openapi_json(self, root_path: str) -> bytes:
        """Return the document as JSON; `root_path` is the path prefix below which clients find the service."""
        document = self.openapi()
        if root_path not in self._json:
            servers = [{**server, "url": root_path or server["url"]} for server in document["servers"]]
            self._json[root_path] = dump({**document, "servers": servers})
        return self._json[root_path]


def _documented(endpoint: Endpoint) -> Callable[..., Any]:
    """Return a function with the signature of an endpoint, as FastAPI reads it."""
    schema: Any = endpoint.query
    if schema is None or not schema.model_fields:
        return lambda: None

    def signature(query: Annotated[schema, Query()]) -> None:
        """Have the query parameters of the endpoint."""

    return signature


def _with_json_class(options: Mapping[str, Any]) -> dict[str, Any]:
    """Add the response class of endpoints that respond with JSON."""
    return {**options, "response_class": JSONResponse} if "response_model" in options else dict(options)


def _complete(document: dict[str, Any], bodies: Sequence[type[BaseModel]]) -> None:
    for operation in (operation for methods in document["paths"].values() for operation in methods.values()):
        parameters = operation.setdefault("parameters", [])
        for parameter in parameters:
            parameter["schema"] = _query_schema(parameter)
        if "504" in operation["responses"]:
            parameters.append({"$ref": "#/components/parameters/RequestTimeout"})
        for response in operation["responses"].values():
            response.setdefault("headers", {})["X-Request-ID"] = _REQUEST_ID
    document["components"]["parameters"] = {"RequestTimeout": _TIMEOUT}
    _share_problems(document)
    models: Any = [(schema, "validation") for schema in bodies]
    _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    schemas.update(definitions["$defs"])
    for name, schema in schemas[SampleQuery.__name__]["properties"].items():
        schemas[SampleQuery.__name__]["properties"][name] = _optional(schema)
    for schema in schemas.values():
        for properties in schema.get("properties", {}).values():
            properties.pop("title", None)  # client generators would name classes by it
            if properties.get("default", ...) is None:
                del properties["default"]  # an optional property need not be sent as null


def _share_problems(document: dict[str, Any]) -> None:
    """Move the problems, which many operations have, to the components: one for each status and content."""
    shared: dict[str, dict[str, Any]] = document["components"].setdefault("responses", {})
    for operation in (operation for methods in document["paths"].values() for operation in methods.values()):
        for status, response in operation["responses"].items():
            if PROBLEM not in response.get("content", {}):
                continue
            name = PROBLEMS[int(status)].__name__
            if shared.setdefault(name, response) == response:
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}


_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""Keywords of JSON Schema for bounds that pydantic does not translate, because a function validates before them."""


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter in a body, with its default as text: generators require or send defaults."""
    plain = _query_schema({"schema": schema})
    default = plain.pop("default", None)
    described = [schema.get("description"), None if default is None else f"by default {str(default).lower()}"]
    return {**plain, "description": "; ".join(filter(None, described))}


def _query_schema(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query parameter: it is optional instead of nullable, and integers have 64 bits."""
    schema = {name: value for name, value in parameter["schema"].items() if name not in ("title", "description")}
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    schema |= kinds[0] if kinds else {}
    schema = {_KEYWORDS.get(name, name): value for name, value in schema.items()}
    if schema.pop("exclusiveMaximum", None) == 2**63:
        schema |= {"maximum": 2**63 - 1, "format": "int64"}
    return schema


def _add_examples(document: dict[str, Any], examples: Examples) -> None:
    """Put the examples at the properties of the schemas, and into the bodies of requests."""
    schemas = document["components"]["schemas"]
    for (schema, name), example in examples.items():
        about = schemas[schema]["properties"][name]
        about.pop("examples", None)
        if example is not None:
            about["examples"] = [example]
    for path, field, schema in (
        ("/encode", "images", "Images"),
        ("/reconstruct", "images", "Images"),
        ("/score", "images", "Images"),
        ("/decode", "latents", "LatentsIn"),
        ("/interpolate", "latents", "LatentsIn"),
    ):
        body = document["paths"][path]["post"]["requestBody"]["content"][JSON]
        body.pop("example", None)
        if (example := examples[schema, field]) is not None:
            body["example"] = {field: 2 * example if path == "/interpolate" else example}
