"""Errors of torch and ONNX Runtime are classified, and an engine survives those of a batch."""

import asyncio

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from app.batching.executor import DeviceLost, OutOfMemory
from app.batching.rows import RowBatch
from app.errors import ServiceError, Unavailable
from app.inference.device_errors import diagnose, release, works
from app.observability.metrics import Metrics
from app.runtimes.onnx_export import OPSET
from app.runtimes.onnx_session import FATAL_ONLY
from tests.support.apps import until
from tests.support.engines import context, running_engine
from tests.support.runtimes import intercepted

pytestmark = pytest.mark.anyio

FAR_TOO_MUCH = 2**60
"""Bytes that no machine has, so that a real allocator fails."""


def failure_of(work) -> Exception:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        work()
    return caught.value


def test_a_failed_allocation_is_out_of_memory(device):
    where = torch.device(device)
    for work in (lambda: torch.empty(FAR_TOO_MUCH, dtype=torch.uint8, device=where), lambda: bytearray(2**62)):
        assert isinstance(diagnose(failure_of(work), where), OutOfMemory)


def test_a_graph_that_finds_no_memory_is_out_of_memory():
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["shape"], ["y"])], "graph", [shape], [y])
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=helper.find_min_ir_version_for(opset))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    with pytest.raises(Exception, match="FAIL") as caught:
        session.run(None, {"shape": np.array([FAR_TOO_MUCH // 4])})
    assert isinstance(diagnose(caught.value, torch.device("cpu")), OutOfMemory)


def test_an_error_of_the_batch_is_no_device_error(device):
    where = torch.device(device)
    assert diagnose(failure_of(lambda: torch.ones(2, 3, device=where) @ torch.ones(2, 3, device=where)), where) is None
    assert works(where)
    release(where)
    assert works(where)


def test_a_device_that_computes_nothing_is_lost():
    assert isinstance(diagnose(RuntimeError("CUDA error: an illegal memory access"), torch.device("meta")), DeviceLost)


def images(*values: int) -> np.ndarray:
    return np.stack([np.full((1, 8, 8), value, np.uint8) for value in values])


def fail_on_white_images_and_large_batches(operation: str, rows: RowBatch, single: bool) -> None:
    """A fault of the runtime; the warm-up meets neither, as its images are black."""
    (pixels, *_) = rows.columns
    if operation != "encode":
        return
    if len(pixels) > 8 and pixels.any():
        torch.empty(FAR_TOO_MUCH, dtype=torch.uint8)
    if (pixels == 255).all(axis=(1, 2, 3)).any():
        raise RuntimeError("hunter2")


async def test_an_image_that_fails_affects_no_other_request(digits_model):
    faulty = intercepted(fail_on_white_images_and_large_batches)
    async with running_engine(digits_model, "cpu", compile_model=faulty, max_batch_delay_ms=100) as engine:
        batches = [images(n) for n in range(5)] + [images(7, 255, 9)] + [images(n, n) for n in range(20, 30)]
        requests = (engine.loaded_model.encode(batch, context()) for batch in batches)
        results = await asyncio.gather(*requests, return_exceptions=True)
        failures = [result for result in results if isinstance(result, ServiceError)]
        assert [failure.detail for failure in failures] == ["the model failed on item 1 of this request"]
        assert results[5] is failures[0]
        assert engine.ready


async def test_after_out_of_memory_batches_are_smaller(digits_model):
    faulty, metrics = intercepted(fail_on_white_images_and_large_batches), Metrics()
    async with running_engine(digits_model, "cpu") as healthy:
        expected, _ = await healthy.loaded_model.encode(images(*range(64)), context())
    async with running_engine(digits_model, "cpu", compile_model=faulty, metrics=metrics) as engine:
        mean, _ = await engine.loaded_model.encode(images(*range(64)), context())
    assert np.abs(mean - expected).max() < 1e-5
    encode = {"operation": "encode"}
    assert metrics.registry.get_sample_value("vae_out_of_memory_total", encode) > 0
    assert metrics.registry.get_sample_value("vae_batch_limit_items", encode) == 8


async def test_a_lost_device_fails_all_requests_and_the_engine_is_not_alive(digits_model):
    def lose(operation: str, rows: RowBatch, single: bool) -> None:
        if (rows.columns[0] == 255).any():
            raise DeviceLost("an illegal access")

    async with running_engine(digits_model, "cpu", compile_model=intercepted(lose)) as engine:
        requests = (engine.loaded_model.encode(images(255), context()) for _ in range(9))
        failures = await asyncio.gather(*requests, return_exceptions=True)
        assert {type(failure) for failure in failures} == {Unavailable}
        await until(lambda: not engine.alive)
        assert not engine.ready
