"""What torch really fails with, told from a failure of the batch's own; and a real model that meets it."""

import asyncio

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from app.batching.executor import DeviceLost, OutOfMemory
from app.codecs.images import write_npy
from app.inference.device_errors import diagnose, release, works
from app.main import create_app
from app.runtimes.onnx_graph import OPSET
from app.runtimes.sessions import QUIET
from app.settings import Settings
from tests.support.apps import running, until

pytestmark = pytest.mark.anyio

NPY = {"content-type": "application/x-npy", "accept": "application/x-npy"}
FAR_TOO_MUCH = 2**60
"""Bytes that no machine has; asking for them is how an allocator really fails."""


def failure_of(work) -> Exception:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        work()
    return caught.value


def test_a_real_allocator_that_fails_is_out_of_memory(device):
    where = torch.device(device)
    for work in (lambda: torch.empty(FAR_TOO_MUCH, dtype=torch.uint8, device=where), lambda: bytearray(2**62)):
        assert isinstance(diagnose(failure_of(work), where), OutOfMemory)


def test_a_graph_without_room_is_out_of_memory():
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["shape"], ["y"])], "graph", [shape], [y])
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=helper.find_min_ir_version_for(opset))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    with pytest.raises(Exception, match="FAIL") as caught:
        session.run(None, {"shape": np.array([FAR_TOO_MUCH // 4])})
    assert isinstance(diagnose(caught.value, torch.device("cpu")), OutOfMemory)


def test_a_failure_of_the_batchs_own_says_nothing_of_the_device(device):
    where = torch.device(device)
    assert diagnose(failure_of(lambda: torch.ones(2, 3, device=where) @ torch.ones(2, 3, device=where)), where) is None
    assert works(where)
    release(where)
    assert works(where)


def test_a_device_that_computes_nothing_any_more_is_lost():
    assert isinstance(diagnose(RuntimeError("CUDA error: an illegal memory access"), torch.device("meta")), DeviceLost)


async def test_a_service_whose_device_is_lost_fails_its_callers_at_once_and_is_not_alive(app):
    async with running(app) as client:
        app.state.services.engine.served.recordings.clear()
        app.state.services.engine.served.programs.clear()
        app.state.services.engine.device.place = torch.device("meta")  # which takes tensors, and never gives one back
        answers = await asyncio.gather(*(client.post("/encode", content=images(n), headers=NPY) for n in range(9)))
        assert {answer.status_code for answer in answers} == {503}
        await until(lambda: not app.state.services.engine.alive)
        for path in ("/livez", "/readyz", "/sample"):
            assert (await client.get(path)).status_code == 503


def images(*values: int) -> bytes:
    return write_npy(np.stack([np.full((8, 8), value, np.uint8) for value in values]))


@pytest.fixture
def app(digits_model, device):
    """A real service; once hooked its encoder fails on a picture all of 255, and has room for 8 at most."""
    app = create_app(Settings(model=digits_model, device=device, threads=1, max_batch_delay_ms=100))

    def hook(module, arguments):
        (x,) = arguments
        if len(x) > 8:
            torch.empty(FAR_TOO_MUCH, dtype=torch.uint8, device=x.device)
        if (x == 1).flatten(1).all(1).any():
            raise RuntimeError("hunter2")

    def hooked() -> None:
        served = app.state.services.engine.served
        served.recordings.clear()  # in these and in programs there is no hook
        served.programs.clear()
        served.networks.exact.encoder.register_forward_pre_hook(hook)

    app.state.hook = hooked
    return app


async def test_a_poisoned_picture_fails_its_own_request_and_the_crowd_beside_it_is_answered(app):
    async with running(app) as client:
        app.state.hook()
        bodies = [images(n) for n in range(5)] + [images(7, 255, 9)] + [images(n, n) for n in range(20, 30)]
        answers = await asyncio.gather(*(client.post("/encode", content=body, headers=NPY) for body in bodies))
        assert [answer.status_code for answer in answers] == [200] * 5 + [500] + [200] * 10
        assert answers[5].json()["detail"] == "the model failed on item 1 of this request"
        assert "hunter2" not in answers[5].text
        assert (await client.get("/livez")).status_code == 200


async def test_a_device_that_runs_out_of_memory_goes_on_with_smaller_batches(app):
    async with running(app) as client:
        before = await client.post("/encode", content=images(*range(64)), headers=NPY)
        app.state.hook()
        after = await client.post("/encode", content=images(*range(64)), headers=NPY)
        assert (before.status_code, after.status_code) == (200, 200)
        rows = [np.frombuffer(answer.content[-2 * 64 * 4 * 4 :], np.float32) for answer in (before, after)]
        assert np.abs(rows[0] - rows[1]).max() < 1e-5
        metrics = (await client.get("/metrics")).text
        assert 'vae_out_of_memory_total{operation="encode"} 3.0' in metrics
        assert 'vae_batch_limit_items{operation="encode"} 8.0' in metrics
