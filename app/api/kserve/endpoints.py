"""Endpoints of the Open Inference Protocol: server, models, repository and inference."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.api import health
from app.api.endpoint import Endpoint, EndpointRequest, Handler, Response
from app.api.kserve import documentation
from app.api.kserve.inference import infer
from app.api.kserve.models import MODELS, VERSION, Model, find_model
from app.api.kserve.schemas import (
    IndexedModel,
    IndexRequest,
    ModelConfiguration,
    ModelMetadata,
    ModelReady,
    ModelStatistics,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from app.api.kserve.statistics import samples_of, statistics
from app.api.query import Query
from app.api.request_bodies import MAX_PARAMETERS_BYTES, read_body
from app.codecs.json_bytes import dump
from app.codecs.media_types import JSON
from app.context import OTHER
from app.errors import NotFound
from app.validation import parse_json

NAME = "vae"
DISTRIBUTION = "vae-service"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")

MAX_VALUES = 16
"""Values in the JSON of a request for the index."""

MODEL, OF_VERSION = "/v2/models/{name:path}", "/versions/{version}"


async def server_live(request: EndpointRequest, query: None) -> Response:
    """Liveness of the server: 503 means that the process has to be restarted."""
    await health.livez(request, query)
    return _json(ServerLive(live=True))


async def server_ready(request: EndpointRequest, query: None) -> Response:
    """Readiness of the server: the model is loaded and warm, and the service is not draining."""
    await health.readyz(request, query)
    return _json(ServerReady(live=True, ready=True))


async def server_metadata(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Name and version of the server, and the extensions of the protocol that it speaks."""
    return _json(ServerMetadata(name=NAME, version=version(DISTRIBUTION), extensions=[*EXTENSIONS]))


async def model_metadata(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Inputs and outputs of a model."""
    name, model = _model(request)
    return _json(model.metadata(name, request.services.engine.loaded_model))


async def model_ready(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Readiness of a model."""
    name, _ = _model(request)
    await health.readyz(request, None)
    return _json(ModelReady(name=name, ready=True))


async def model_configuration(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Configuration of a model, as Triton has it."""
    name, model = _model(request)
    services = request.services
    return Response(JSON, dump(model.configuration(name, services.engine.loaded_model, services.settings)))


async def model_statistics(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Statistics of a model, as Triton has them."""
    return await _statistics(request, dict([_model(request)]))


async def all_statistics(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Statistics of all models."""
    return await _statistics(request, MODELS)


async def _statistics(request: EndpointRequest, models: dict[str, Model]) -> Response:
    exposition = await asyncio.shield(request.services.exposition.begin())
    samples = await request.run_codec(len(exposition), samples_of, exposition)
    stats = [statistics(name, VERSION, model, samples) for name, model in models.items()]
    return Response(JSON, dump({"model_stats": stats}))


async def repository_index(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """The models, or with `ready` in the body those that are ready."""
    body = await read_body(request, "", MAX_PARAMETERS_BYTES)
    only_ready = body and _index_request(body).ready
    engine = request.services.engine
    reason = "" if engine.ready else engine.unready_reason
    index = [
        IndexedModel(name=name, version=VERSION, state="UNAVAILABLE" if reason else "READY", reason=reason)
        for name in MODELS
        if not (reason and only_ready)
    ]
    return Response(JSON, dump([model.model_dump() for model in index]))


def _index_request(body: bytes) -> IndexRequest:
    return parse_json(IndexRequest, body, max_values=MAX_VALUES, max_names=MAX_VALUES, max_arrays=MAX_VALUES)


def _model(request: EndpointRequest) -> tuple[str, Model]:
    """Return the model that the path names, with its name as it was sent."""
    name, spec = request.path_parameters["name"], request.services.engine.loaded_model.spec
    return name, find_model(name, spec, request.path_parameters.get("version"))


async def infer_encode(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """The posterior q(z|x) of `images`: `mean` and `logvar`, and with the parameter `samples` draws `z`."""
    return await infer(request, _name(request, "encode"))


async def infer_decode(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """The mean `images` of p(x|z) for `latents`."""
    return await infer(request, _name(request, "decode"))


async def infer_reconstruct(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """The `images` encoded and decoded: at the posterior mean, or with the parameter `seed` at a draw."""
    return await infer(request, _name(request, "reconstruct"))


async def infer_sample(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """As many new `images` as the input or the parameter `n` says, by draws from the prior N(0, I)."""
    return await infer(request, _name(request, "sample"))


async def infer_score(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """How well the model explains `images`: `elbo` and its terms, or the error of the reconstruction."""
    return await infer(request, _name(request, "score"))


async def infer_unknown(request: EndpointRequest, query: Query) -> Response:  # noqa: ARG001
    """Refuse a model of another name; raises `NotFound`."""
    return await infer(request, request.path_parameters["name"])


async def infer_by_get(request: EndpointRequest, query: None) -> Response:  # noqa: ARG001
    """Refuse inference by GET and HEAD as the router refuses other methods, so that the error names the method."""
    raise HTTPException(405, headers={"Allow": "POST"})


def _name(request: EndpointRequest, own: str) -> str:
    """Return the name of a model as the client has sent it, with that of the served model."""
    served = request.path_parameters.get("served")
    return own if served is None else f"{served}/{own}"


def _json(content: BaseModel) -> Response:
    return Response(JSON, dump(content.model_dump()))


def _infer(name: str, handler: Handler) -> Iterator[Endpoint]:
    """Yield the endpoints of a model: its name alone, with a version, and below the name of the served model.

    Metrics count all of them under the first path.
    """
    first = Endpoint(f"/v2/models/{name}/infer", handler, "POST", media_types=(), uses_queue=True)
    yield replace(first, documentation=documentation.infer(name))
    others = (f"{name}{OF_VERSION}", f"{{served:path}}/{name}", f"{{served:path}}/{name}{OF_VERSION}")
    for other in others:
        path = f"/v2/models/{other}/infer"
        yield replace(first, path=path, label=first.path, documentation=documentation.HIDDEN)


def _about_model(handler: Handler, documented: Mapping[str, Any], suffix: str = "") -> Iterator[Endpoint]:
    """Yield the endpoints that describe a model: with a version in the path, and without one."""
    last = Endpoint(
        f"{MODEL}{suffix}", handler, media_types=(), documentation=documented, label=f"/v2/models/{{name}}{suffix}"
    )
    yield replace(last, path=f"{MODEL}{OF_VERSION}{suffix}", documentation=documentation.HIDDEN)
    yield last


def _about_server(path: str, handler: Handler, documented: Mapping[str, Any], method: str = "GET") -> Endpoint:
    return Endpoint(path, handler, method, media_types=(), documentation=documented)


def _unsupported(what: str, *paths: str) -> Iterator[Endpoint]:
    """Yield the endpoints of an extension of the protocol that the service does not have: they raise `NotFound`."""

    async def unsupported(request: EndpointRequest, query: None) -> Response:  # noqa: ARG001
        raise NotFound(f"{what} not supported; GET /v2 lists the extensions that are")

    for path, method in product(paths, ("GET", "POST")):
        yield _hidden(path, unsupported, method)


def _hidden(path: str, handler: Handler, method: str) -> Endpoint:
    """Return an endpoint that only refuses requests."""
    return Endpoint(path, handler, method, query=None, media_types=(), documentation=documentation.HIDDEN, label=OTHER)


def _probe(path: str, handler: Handler, schema: type[BaseModel]) -> Endpoint:
    options = documentation.about_server(schema, 503)
    return Endpoint(path, handler, query=None, media_types=(), documentation=options, is_public=True)


_FAILURES = (401, 413, 422, 503)

ENDPOINTS: Sequence[Endpoint] = (
    _probe("/v2/health/live", server_live, ServerLive),
    _probe("/v2/health/ready", server_ready, ServerReady),
    _about_server("/v2", server_metadata, documentation.about_server(ServerMetadata, *_FAILURES)),
    _about_server("/v2/", server_metadata, documentation.HIDDEN),
    _about_server(
        "/v2/repository/index",
        repository_index,
        documentation.about_server(list[IndexedModel], 400, 408, 415, 504, *_FAILURES) | documentation.INDEX,
        "POST",
    ),
    _about_server("/v2/models/stats", all_statistics, documentation.about_server(ModelStatistics, *_FAILURES)),
    *_infer("encode", infer_encode),
    *_infer("decode", infer_decode),
    *_infer("reconstruct", infer_reconstruct),
    *_infer("sample", infer_sample),
    *_infer("score", infer_score),
    Endpoint("/v2/models/{name:path}/infer", infer_unknown, "POST", media_types=(), documentation=documentation.HIDDEN),
    _hidden("/v2/models/{name:path}/infer", infer_by_get, "GET"),
    *_unsupported("loading and unloading of models are", "/v2/repository/models/{name:path}"),
    *_unsupported("trace settings are", "/v2/trace/setting", f"{MODEL}/trace/setting"),
    *_unsupported("log settings are", "/v2/logging"),
    *_unsupported("shared memory is", "/v2/systemsharedmemory/{region:path}", "/v2/cudasharedmemory/{region:path}"),
    *_about_model(model_ready, documentation.about_model(ModelReady), "/ready"),
    *_about_model(model_configuration, documentation.about_model(ModelConfiguration), "/config"),
    *_about_model(model_statistics, documentation.about_model(ModelStatistics), "/stats"),
    *_about_model(model_metadata, documentation.about_model(ModelMetadata)),
)
