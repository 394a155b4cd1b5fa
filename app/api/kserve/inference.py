"""Inference: reads the body of a request, has a model compute its tensors, and writes the response."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from app.api.endpoint import EndpointRequest, Response
from app.api.kserve.models import VERSION, Model, find_model
from app.api.kserve.operations import Call, Result
from app.api.kserve.parameters import BINARY_OUTPUT, flag, read_parameters, timeout_seconds
from app.api.kserve.schemas import Parameters, RequestOutput
from app.api.kserve.tensors import Tensor, input_tensors
from app.api.kserve.wire import JSON_LENGTH, Output, json_length, parse_request, write_response
from app.api.openapi import OCTETS
from app.api.query import Query
from app.api.request_bodies import JSON_OVERHEAD, read_body
from app.api.responses import until_deadline
from app.codecs.media_types import JSON
from app.errors import UnprocessableContent
from app.inference.loaded_model import LoadedModel
from app.validation import quoted

_UNSUPPORTED = {"classification": "classification", "shared_memory_region": "shared memory"}
"""Parameters of outputs that are refused, because a client relies on their effect."""


class _Sent(NamedTuple):
    """A request, with the tensors that its JSON or its binary part has."""

    id: str | None
    parameters: Parameters
    tensors: Sequence[Tensor]
    outputs: Sequence[RequestOutput]


async def infer(request: EndpointRequest, name: str) -> Response:
    """Compute the model of a name by the tensors of a request."""
    served = request.model()
    model = find_model(name, served.spec, request.path_parameters.get("version"))
    sent = await _read(request)
    if (timeout := timeout_seconds(sent.parameters)) is not None:
        request.context.deadline = min(request.context.deadline, time.monotonic() + timeout)
    parameters = read_parameters(model.parameters, sent.parameters)
    binary = _requested(model, served, sent, parameters)
    tensor = _input(model, served, sent.tensors)
    in_json = not all(binary.values()) or model.name == "score"  # scores take the memory of JSON
    call = Call(replace(request, media_type=JSON if in_json else OCTETS), served, tensor)
    result = await model.compute(call, parameters)
    outputs = {output.name: output for output in result.outputs}
    selected = [outputs[name]._replace(is_binary=is_binary) for name, is_binary in binary.items()]
    return await _response(request, name, sent.id, result, selected)


async def _read(request: EndpointRequest) -> _Sent:
    """Read the body; the memory that its JSON takes is reserved before it is parsed."""
    body = await read_body(request, "an inference request")
    length = json_length(request.context.headers, body)
    limits, budget = request.services.limits, request.services.budget
    budget.reserve(request.context, min(JSON_OVERHEAD * length, limits.max_memory_bytes))
    return await request.run_codec(length, _parse, body, length, limits.max_items)


def _parse(body: bytes, length: int, max_items: int) -> _Sent:
    sent = parse_request(body[:length], max_items)
    tensors = input_tensors(sent.inputs, memoryview(body)[length:], max_items)
    return _Sent(sent.id, sent.parameters or {}, tensors, sent.outputs or ())


def _requested(model: Model, served: LoadedModel, sent: _Sent, parameters: Query) -> dict[str, bool]:
    """Return the names of the outputs that the response has, all of them by default, and whether each is binary."""
    names = [output.name for output in model.outputs(served, parameters)]
    default = flag(sent.parameters, BINARY_OUTPUT, "parameters")
    if not sent.outputs:
        return dict.fromkeys(names, default)
    requested: dict[str, bool] = {}
    for index, output in enumerate(sent.outputs):
        where, own = f"outputs[{index}]", output.parameters or {}
        if output.name not in names or output.name in requested:
            times = " more than once" if output.name in requested else ""
            raise UnprocessableContent(
                f"{where}.name: expected one of {', '.join(names)}, got {quoted(output.name)}{times}"
            )
        for name, what in _UNSUPPORTED.items():
            if name in own:
                raise UnprocessableContent(f"{where}.parameters.{name}: {what} is not supported")
        requested[output.name] = flag(own, "binary_data", f"{where}.parameters", default)
    return requested


def _input(model: Model, served: LoadedModel, tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the input tensor of a model; None if there is none."""
    if len(tensors) > 1:
        raise UnprocessableContent(f"inputs: expected one tensor, got {len(tensors)}")
    expected = model.input(served.spec).name
    for tensor in tensors:
        if tensor.name != expected:
            raise UnprocessableContent(f"{tensor.where}.name: expected {expected}, got {quoted(tensor.name)}")
    return tensors[0] if tensors else None


async def _response(
    request: EndpointRequest,
    name: str,
    request_id: str | None,
    result: Result,
    outputs: list[Output],
) -> Response:
    about: dict[str, Any] = {"model_name": name, "model_version": VERSION}
    if request_id is not None:
        about["id"] = request_id
    if result.seed is not None:
        about["parameters"] = {"seed": result.seed}
    checked = partial(until_deadline, request.context)
    cost = sum(output.binary_size for output in outputs)
    body, length = await request.run_codec(cost, write_response, about, outputs, checked)
    if length is None:
        return Response(JSON, body, codings=("gzip",))  # Triton's client asks for zstd too, but reads gzip alone
    return Response(OCTETS, body, ((JSON_LENGTH.encode(), b"%d" % length),))
