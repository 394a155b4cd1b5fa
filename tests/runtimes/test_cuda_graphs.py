"""CUDA graphs replay batches with the results of eager mode; these tests need a GPU."""

import numpy as np
import pytest
import torch

from app.batching.rows import RowBatch
from app.runtimes.base import Target
from app.runtimes.cuda_graphs import CudaGraph
from app.runtimes.operations import OPERATIONS, examples
from app.runtimes.torch_eager import TorchRuntime
from model.formats import read_model
from model.formats.native import model_of
from tests.support.engines import context, running_engine
from tests.support.models import COLOUR, DIGITS, build

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def gpu(device) -> torch.device:
    if not device.startswith("cuda"):
        pytest.skip("a CPU has no CUDA graphs")
    return torch.device(device)


def noisy(example: RowBatch) -> RowBatch:
    draw = np.random.default_rng(0)
    return RowBatch(
        tuple(
            draw.integers(0, 256, column.shape, np.uint8)
            if column.dtype == np.uint8
            else draw.standard_normal(column.shape, np.float32)
            for column in example.columns
        )
    )


@pytest.mark.parametrize("operation", ["encode", "decode", "reconstruct"])
@pytest.mark.parametrize("config", [DIGITS, COLOUR], ids=["digits", "colour"])
@torch.inference_mode()
def test_a_replay_gives_the_results_of_eager_mode(config, operation, gpu):
    model = TorchRuntime().compile(model_of(build(config)), Target(gpu)).model
    first = None
    for rows in (16, 1, 5):
        example = examples(model.spec, rows)[operation]
        graph = first = CudaGraph(lambda *there: OPERATIONS[operation](model, *there), example, gpu, first)
        batch = noisy(example)
        there = [torch.from_numpy(column).to(gpu) for column in batch.columns]
        expected = [answer.cpu().numpy() for answer in OPERATIONS[operation](model, *there)]
        answers = [graph(batch) for _ in range(2)]
        graph(example)  # earlier results do not change
        for answer in answers:
            assert all(np.array_equal(a, b) for a, b in zip(answer.columns, expected, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
async def test_the_memory_of_cuda_graphs_is_freed_with_their_model(digits_model, device, precision, digits):
    async with running_engine(digits_model, device, precision=precision, max_batch_size=32) as engine:
        before = await engine.loaded_model.posterior(digits[:9], context())
        memory = []
        for _ in range(6):
            await engine.replace(read_model(digits_model))
            memory.append(engine.device.memory())
        assert memory[-1] < 1.5 * memory[0]
        after = await engine.loaded_model.posterior(digits[:9], context())
        assert torch.equal(before.mean, after.mean)
