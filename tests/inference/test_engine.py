"""Results are those of the mathematics, and do not depend on the other rows of a batch."""

import asyncio
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from app.batching.policy import CPU_INLINE_SECONDS
from app.batching.rows import RowBatch
from app.inference.calibration import SCORE, Variant
from app.inference.core_sharing import CoreUsage
from app.inference.loaded_model import LoadedModel
from app.runtimes.selection import mnn_is_installed
from model.checkpoint import read_checkpoint
from model.elbo import bounds
from model.formats import read_model
from tests.support.apps import until
from tests.support.engines import context, running_engine
from tests.support.runtimes import intercepted

pytestmark = pytest.mark.anyio
needs_mnn = pytest.mark.skipif(not mnn_is_installed(), reason="MNN is not installed")


@pytest.fixture(scope="module", params=["digits", "colour"])
def folder(request, digits_model, colour_model):
    return {"digits": digits_model, "colour": colour_model}[request.param]


@pytest.fixture(scope="module", params=["inline", "thread", "torch", pytest.param("mnn", marks=needs_mnn)])
async def model(request, folder, device):
    runtime = request.param if request.param in ("torch", "mnn") else "auto"
    device = "cpu" if runtime == "mnn" else device
    async with running_engine(folder, device, runtime=runtime) as engine:
        yield on_the_thread(engine.loaded_model) if request.param == "thread" else engine.loaded_model


def on_the_thread(model: LoadedModel) -> LoadedModel:
    """The model with policies by which no batch runs inline."""
    policies = {variant: replace(policy, inline=False) for variant, policy in model.calibration.policies.items()}
    return model.calibrated(model.device_model.compiled, replace(model.calibration, policies=policies))


@pytest.fixture
def pixels(model) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, *model.spec.image_shape), np.uint8)


@pytest.fixture
def noise(model) -> torch.Tensor:
    return torch.randn(70, 5, *model.spec.latent_shape)


def unit(pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255


async def test_results_are_those_of_the_mathematics(model, folder, pixels, noise):
    vae = read_checkpoint(folder).vae
    with torch.inference_mode():
        q, scored = vae.posterior(unit(pixels)), bounds(vae, unit(pixels), 5, noise=noise.transpose(0, 1))
        means = vae.likelihood(q.mean).mean.numpy() * 255
    answer, score = (
        await model.posterior(pixels, context()),
        (await model.score(pixels, noise, context())).bounds,
    )
    torch.testing.assert_close((answer.mean, answer.logvar), (q.mean, q.logvar), atol=1e-5, rtol=1e-4)
    for found, expected in zip((*score.elbo, score.log_likelihood), (*scored.elbo, scored.log_likelihood), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    for images in (
        await model.decode(q.mean, context()),
        await model.reconstruct(pixels, None, context()),
    ):
        assert images.dtype == np.uint8
        assert np.abs(images - means).max() <= 0.51


async def test_a_single_image_has_the_result_that_it_has_in_a_batch(model, pixels):
    together = await model.posterior(pixels, context())
    alone = [await model.posterior(pixels[row : row + 1], context()) for row in range(len(pixels))]
    crowd = await asyncio.gather(*(model.posterior(pixels[row : row + 1], context()) for row in range(len(pixels))))
    for answers in (alone, crowd):
        torch.testing.assert_close(torch.cat([q.mean for q in answers]), together.mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.cat([q.logvar for q in answers]), together.logvar, atol=1e-5, rtol=0)


async def traffic(model, pixels) -> None:
    while True:
        sizes = torch.randint(1, 65, (4,)).tolist()
        await asyncio.gather(*(model.posterior(pixels[:size], context()) for size in sizes))
        await model.decode(torch.randn(3, *model.spec.latent_shape), context(), deterministic=True)


async def test_deterministic_results_have_the_same_bits_alone_and_under_load(model, pixels, noise):
    async def everything() -> list[np.ndarray]:
        q = await model.posterior(pixels, context(), deterministic=True)
        score = await model.score(pixels[:9], noise[:9], context())
        decoded = await model.decode(noise[:, 0], context(), deterministic=True)
        drawn = await model.reconstruct(pixels, noise[:, 0], context())
        return [q.mean.numpy(), *map(np.asarray, score.bounds.elbo), score.values, score.codes, decoded, drawn]

    alone = await everything()
    others = [asyncio.create_task(traffic(model, pixels)) for _ in range(3)]
    loaded = await everything()
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    assert all(np.array_equal(a, b) for a, b in zip(alone, loaded, strict=True))
    singles = [
        await model.posterior(pixels[row : row + 1], context(), deterministic=True) for row in range(len(pixels))
    ]
    assert np.array_equal(alone[0], torch.cat([q.mean for q in singles]).numpy())


@pytest.mark.parametrize(
    ("runtime", "shared", "by_row"),
    [("onnxruntime", True, False), pytest.param("mnn", False, False, marks=needs_mnn), ("torch", False, True)],
)
async def test_deterministic_requests_share_the_batches_that_their_runtime_allows(folder, runtime, shared, by_row):
    async with running_engine(folder, "cpu", runtime=runtime) as engine:
        keys = engine.loaded_model.keys
        deterministic, other = keys[Variant("decode", deterministic=True)], keys[Variant("decode")]
        assert (deterministic == other) == shared
        assert (not deterministic.sizes, not other.sizes) == (by_row, False)


@pytest.mark.parametrize("runtime", ["auto", "torch"])
async def test_all_results_of_a_batch_invariant_engine_are_deterministic(digits_model, device, digits, runtime):
    async with running_engine(digits_model, device, runtime=runtime, batch_invariant=True) as engine:
        model = engine.loaded_model
        assert model.batch_invariant
        together = await model.posterior(digits[:70], context())
        alone = [await model.posterior(digits[row : row + 1], context()) for row in range(70)]
        assert torch.equal(together.mean, torch.cat([q.mean for q in alone]))
        assert torch.equal(together.logvar, torch.cat([q.logvar for q in alone]))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("size", [1, 3, 5, 33, 64])
async def test_a_request_of_any_size_gets_as_many_results(model, pixels, size, deterministic):
    q = await model.posterior(pixels[:size], context(), deterministic=deterministic)
    assert len(q.mean) == size


def test_row_batches_are_sliced_and_joined_like_lists():
    batch = RowBatch((np.arange(10), np.arange(20).reshape(10, 2)))
    again = RowBatch.join([batch[:3], batch[3:4], batch[4:]])
    assert len(again) == 10
    assert all(np.array_equal(a, b) for a, b in zip(again.columns, batch.columns, strict=True))


async def test_short_batches_run_inline_and_scores_on_the_thread(digits_model, device):
    async with running_engine(digits_model, device) as engine:
        keys = engine.loaded_model.keys
        assert keys[Variant("encode")].policy.inline or device != "cpu"
        assert not keys[SCORE].policy.inline


async def test_time_that_other_processes_take_does_not_count(digits_model):
    sleep = intercepted(lambda *_: time.sleep(2 * CPU_INLINE_SECONDS))
    async with running_engine(digits_model, "cpu", compile_model=sleep, max_batch_size=4) as engine:
        assert engine.loaded_model.keys[Variant("encode")].policy.inline


async def test_a_slow_moment_of_the_warm_up_affects_no_batch_size(digits_model):
    seen: list[int] = []

    def delay(operation: str, rows: RowBatch, single: bool) -> None:
        if operation == "encode" and (seen or len(rows) == 4):
            seen.append(len(rows))  # the first batch of four, and those after it
        until = time.thread_time() + (2 * CPU_INLINE_SECONDS if 1 <= len(seen) <= 4 else 0)
        while time.thread_time() < until:
            pass

    async with running_engine(digits_model, "cpu", compile_model=intercepted(delay), max_batch_size=4) as engine:
        assert seen.count(4) >= 2
        assert engine.loaded_model.keys[Variant("encode")].policy.inline


async def test_bfloat16_rounds_the_networks_only(folder, device):
    async with running_engine(folder, device) as full, running_engine(folder, device, precision="bfloat16") as half:
        models = full.loaded_model, half.loaded_model
        pixels = np.random.default_rng(0).integers(0, 256, (9, *models[0].spec.image_shape), np.uint8)
        noise = torch.randn(9, 5, *models[0].spec.latent_shape, generator=torch.Generator().manual_seed(0))
        exact, rounded = [await model.posterior(pixels, context()) for model in models]
        assert rounded.mean.dtype == torch.float32
        assert not torch.equal(exact.mean, rounded.mean)
        torch.testing.assert_close(rounded.mean, exact.mean, atol=0.03, rtol=0.03)
        torch.testing.assert_close(rounded.logvar, exact.logvar, atol=0.03, rtol=0.03)
        bounds = [(await model.score(pixels, noise, context())).bounds for model in models]
        torch.testing.assert_close(bounds[1].elbo.total, bounds[0].elbo.total, rtol=0.01, atol=1)
        alone = (await models[1].score(pixels[4:5], noise[4:5], context())).bounds
        assert torch.equal(alone.log_likelihood, bounds[1].log_likelihood[4:5])


@pytest.mark.parametrize("runtime", ["auto", "torch"])
async def test_a_replaced_model_is_freed_after_its_last_request(digits_model, device, digits, runtime):
    async with running_engine(digits_model, device, runtime=runtime) as engine:
        await engine.loaded_model.posterior(digits[:9], context())
        await on_the_thread(engine.loaded_model).posterior(digits[:9], context())
        old = weakref.ref(engine.loaded_model.device_model)
        await engine.replace(read_model(digits_model))
        await until(lambda: old() is None)


async def test_a_closed_engine_is_neither_alive_nor_ready(digits_model, device):
    async with running_engine(digits_model, device) as engine:
        assert (engine.alive, engine.ready) == (True, True)
    assert (engine.alive, engine.ready) == (False, False)


async def test_a_single_row_may_use_all_cores_while_no_other_worker_computes(digits_model, digits):
    runs: list[tuple[int, bool]] = []
    record = intercepted(lambda operation, rows, single: runs.append((len(rows), single)))
    slots = [0, 0]
    usage = CoreUsage(slots)
    async with running_engine(digits_model, "cpu", compile_model=record, core_usage=usage) as engine:
        model = engine.loaded_model
        assert not any(single for _, single in runs)
        for rows, other_worker in ((1, 0), (3, 0), (1, 1)):
            runs.clear()
            slots[1] = other_worker
            await model.posterior(digits[:rows], context())
            assert {single for _, single in runs} == {rows == 1 and not other_worker}
        runs.clear()
        slots[1] = 0
        await asyncio.gather(*(model.posterior(digits[n : n + 1], context()) for n in range(2)))
        assert runs[0] in ((2, False), (1, False))  # while the other request waits, no row is single
