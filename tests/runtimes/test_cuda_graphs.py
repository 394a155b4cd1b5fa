"""On a GPU a batch is replayed as it was recorded, with the answers that it has step by step; laws of CUDA alone."""

import numpy as np
import pytest
import torch

from app.batching.rows import RowBatch
from app.runtimes.cuda_graphs import CudaGraph
from app.runtimes.operations import OPERATIONS, examples, shapes
from app.runtimes.selection import networks
from app.settings import Settings
from model.checkpoint import read_checkpoint
from tests.support.engines import context, running_engine
from tests.support.models import COLOUR, DIGITS, build

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def gpu(device) -> torch.device:
    if not device.startswith("cuda"):
        pytest.skip("there is nothing to record on a CPU")
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
def test_a_replay_answers_what_the_operation_does_step_by_step(config, operation, gpu):
    vae = networks(build(config), Settings(), gpu, 1, 1).exact
    first = None
    for rows in (16, 1, 5):
        example = examples(config, rows)[operation]
        recording = first = CudaGraph(lambda *there: OPERATIONS[operation](vae, *there), example, gpu, first)
        batch = noisy(example)
        there = [torch.from_numpy(column).to(gpu) for column in batch.columns]
        expected = [answer.cpu().numpy() for answer in OPERATIONS[operation](vae, *there)]
        answers = [recording(batch) for _ in range(2)]
        recording(example)  # what came before does not change
        for answer in answers:
            assert all(np.array_equal(a, b) for a, b in zip(answer.columns, expected, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
async def test_every_warmed_batch_is_recorded_and_its_memory_goes_with_its_model(
    digits_model, device, precision, digits
):
    async with running_engine(digits_model, device, precision=precision, max_batch_size=32) as engine:
        exact = {(operation, True, 1, size) for operation in ("encode", "decode", "reconstruct") for size in [16]}
        other = {(operation, False, 1, size) for operation, *_ in exact for size in shapes(32)}
        assert set(engine.served.recordings) == exact | other | {("score", True, 1, 1)}
        before = await engine.served.posterior(digits[:9], context())
        memory = []
        for _ in range(6):
            await engine.replace(read_checkpoint(digits_model))
            memory.append(engine.device.memory())
        assert memory[-1] < 1.5 * memory[0]
        after = await engine.served.posterior(digits[:9], context())
        assert torch.equal(before.mean, after.mean)
