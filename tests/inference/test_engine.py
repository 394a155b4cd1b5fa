"""An answer is the mathematics' own, and does not depend on who shared the batch."""

import asyncio
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from app.batching.policy import CPU_INLINE_SECONDS
from app.batching.rows import RowBatch
from app.inference.core_sharing import CoreUsage
from app.inference.engine import Engine
from app.observability.metrics import Metrics
from app.settings import Settings
from model.checkpoint import read_checkpoint
from model.elbo import bounds
from tests.support.apps import until
from tests.support.engines import context, running_engine
from tests.support.models import DIGITS, build

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["digits", "colour"])
def folder(request, digits_model, colour_model):
    return {"digits": digits_model, "colour": colour_model}[request.param]


@pytest.fixture(scope="module", params=["event loop", "thread", "torch", "mnn"])
async def engine(request, folder, device):
    runtime = request.param if request.param in ("torch", "mnn") else "auto"
    device = "cpu" if runtime == "mnn" else device
    async with running_engine(folder, device, runtime=runtime) as ready:
        if request.param == "thread":
            paces = ready.served.paces
            paces.update({kind: replace(pace, inline=False) for kind, pace in paces.items()})
        yield ready


@pytest.fixture
def pixels(engine) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, *engine.served.config.image_shape), np.uint8)


@pytest.fixture
def noise(engine) -> torch.Tensor:
    return torch.randn(70, 5, *engine.served.config.latent_shape)


def unit(pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255


async def test_answers_are_what_the_mathematics_says(engine, folder, pixels, noise):
    vae = read_checkpoint(folder).vae
    with torch.inference_mode():
        q, scored = vae.posterior(unit(pixels)), bounds(vae, unit(pixels), 5, noise=noise.transpose(0, 1))
        means = vae.likelihood(q.mean).mean.numpy() * 255
    answer, score = (
        await engine.served.posterior(pixels, context()),
        await engine.served.score(pixels, noise, context()),
    )
    torch.testing.assert_close((answer.mean, answer.logvar), (q.mean, q.logvar), atol=1e-5, rtol=1e-4)
    for found, expected in zip((*score.elbo, score.log_likelihood), (*scored.elbo, scored.log_likelihood), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    for images in (
        await engine.served.decode(q.mean, context()),
        await engine.served.reconstruct(pixels, None, context()),
    ):
        assert images.dtype == np.uint8
        assert np.abs(images - means).max() <= 0.51


async def test_an_image_alone_is_the_image_in_a_batch(engine, pixels):
    together = await engine.served.posterior(pixels, context())
    alone = [await engine.served.posterior(pixels[row : row + 1], context()) for row in range(len(pixels))]
    crowd = await asyncio.gather(
        *(engine.served.posterior(pixels[row : row + 1], context()) for row in range(len(pixels)))
    )
    for answers in (alone, crowd):
        torch.testing.assert_close(torch.cat([q.mean for q in answers]), together.mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.cat([q.logvar for q in answers]), together.logvar, atol=1e-5, rtol=0)


async def traffic(engine, pixels) -> None:
    while True:
        sizes = torch.randint(1, 65, (4,)).tolist()
        await asyncio.gather(*(engine.served.posterior(pixels[:size], context()) for size in sizes))
        await engine.served.decode(torch.randn(3, *engine.served.config.latent_shape), context(), exact=True)


async def test_exact_work_is_the_same_bit_for_bit_alone_and_under_load(engine, pixels, noise):
    async def everything() -> list[np.ndarray]:
        q = await engine.served.posterior(pixels, context(), exact=True)
        score = await engine.served.score(pixels[:9], noise[:9], context())
        decoded = await engine.served.decode(noise[:, 0], context(), exact=True)
        drawn = await engine.served.reconstruct(pixels, noise[:, 0], context())
        return [q.mean.numpy(), q.logvar.numpy(), *(e.numpy() for e in score.elbo), decoded, drawn]

    alone = await everything()
    others = [asyncio.create_task(traffic(engine, pixels)) for _ in range(3)]
    loaded = await everything()
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    assert all(np.array_equal(a, b) for a, b in zip(alone, loaded, strict=True))
    singles = [
        await engine.served.posterior(pixels[row : row + 1], context(), exact=True) for row in range(len(pixels))
    ]
    assert np.array_equal(alone[0], torch.cat([q.mean for q in singles]).numpy())


@pytest.mark.parametrize(
    ("runtime", "shared", "by_row"), [("onnxruntime", True, False), ("mnn", False, False), ("torch", False, True)]
)
async def test_exact_work_shares_batches_with_all_other_or_has_its_own_or_none(folder, runtime, shared, by_row):
    async with running_engine(folder, "cpu", runtime=runtime) as engine:
        exact, other = (engine.served.work("decode", exact=exact) for exact in (True, False))
        assert (exact == other) == shared
        assert (exact.by_row, other.by_row) == (by_row, False)


@pytest.mark.parametrize("runtime", ["auto", "torch"])
async def test_a_batch_invariant_engine_is_exact_in_everything(digits_model, device, digits, runtime):
    async with running_engine(digits_model, device, runtime=runtime, batch_invariant=True) as engine:
        assert engine.served.batch_invariant
        together = await engine.served.posterior(digits[:70], context())
        alone = [await engine.served.posterior(digits[row : row + 1], context()) for row in range(70)]
        assert torch.equal(together.mean, torch.cat([q.mean for q in alone]))
        assert torch.equal(together.logvar, torch.cat([q.logvar for q in alone]))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", [1, 3, 5, 33, 64])
async def test_padding_fills_a_warmed_shape_and_does_not_leak(engine, pixels, size, exact):
    work = engine.served.work("encode", exact=exact)
    taken = min(size, engine.device.pace(work).max_rows)
    padded = engine.device.stack(work, [RowBatch((pixels[:taken],))])
    assert len(padded) == (taken if work.by_row else min(n for n in engine.served.shapes(work) if n >= taken))
    assert np.array_equal(padded.columns[0][:taken], pixels[:taken])
    assert not padded.columns[0][taken:].any()
    answer = await engine.served.posterior(pixels[:size], context(), exact=exact)
    assert len(answer.mean) == size


def test_stacks_are_cut_and_joined_as_lists_are():
    stack = RowBatch((np.arange(10), np.arange(20).reshape(10, 2)))
    again = RowBatch.join([stack[:3], stack[3:4], stack[4:]])
    assert len(again) == 10
    assert all(np.array_equal(a, b) for a, b in zip(again.columns, stack.columns, strict=True))


async def test_a_model_that_is_quick_on_a_cpu_is_left_to_the_event_loop_and_a_slow_one_is_not(digits_model, device):
    async with running_engine(digits_model, device) as engine:
        served = engine.served
        assert engine.device.pace(served.work("encode")).inline or device != "cpu"
        assert not engine.device.pace(served.scoring()).inline
        served.measured(
            served.work("encode"),
            {1: 0.5 * CPU_INLINE_SECONDS, 2: 0.9 * CPU_INLINE_SECONDS, 4: 1.5 * CPU_INLINE_SECONDS},
            CPU_INLINE_SECONDS,
        )
        assert not engine.device.pace(served.work("encode")).inline


async def test_what_others_take_of_the_core_meanwhile_is_not_held_against_a_batch(digits_model):
    engine = Engine(read_checkpoint(digits_model), Settings(device="cpu", threads=1, max_batch_size=4), Metrics())
    engine.served.programs.clear()
    engine.served.networks.exact.encoder.register_forward_pre_hook(lambda *_: time.sleep(2 * CPU_INLINE_SECONDS))
    engine.start()
    assert await engine.warmed()
    assert engine.device.pace(engine.served.work("encode")).inline
    await engine.close()


async def test_a_moment_in_which_all_is_slow_is_held_against_no_size_of_batch(digits_model):
    settings = Settings(device="cpu", threads=1, max_batch_size=4, runtime="torch")
    engine = Engine(read_checkpoint(digits_model), settings, Metrics())
    seen: list[int] = []

    def stumble(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if seen or len(inputs[0]) == 4:  # the batch of four that is met first, and three more that come after it
            seen.append(len(inputs[0]))
        until = time.thread_time() + (2 * CPU_INLINE_SECONDS if 1 <= len(seen) <= 4 else 0)
        while time.thread_time() < until:
            pass

    engine.served.networks.exact.encoder.register_forward_pre_hook(stumble)
    engine.start()
    assert await engine.warmed()
    assert seen.count(4) >= 2
    assert engine.device.pace(engine.served.work("encode")).inline
    await engine.close()


async def test_in_half_precision_the_networks_round_and_nothing_else_does(folder, device):
    async with running_engine(folder, device) as full, running_engine(folder, device, precision="bfloat16") as half:
        config = full.served.config
        pixels = np.random.default_rng(0).integers(0, 256, (9, *config.image_shape), np.uint8)
        noise = torch.randn(9, 5, *config.latent_shape, generator=torch.Generator().manual_seed(0))
        exact, rounded = [await engine.served.posterior(pixels, context()) for engine in (full, half)]
        assert rounded.mean.dtype == torch.float32
        assert not torch.equal(exact.mean, rounded.mean)
        torch.testing.assert_close(rounded.mean, exact.mean, atol=0.03, rtol=0.03)
        torch.testing.assert_close(rounded.logvar, exact.logvar, atol=0.03, rtol=0.03)
        bounds = [await engine.served.score(pixels, noise, context()) for engine in (full, half)]
        torch.testing.assert_close(bounds[1].elbo.total, bounds[0].elbo.total, rtol=0.01, atol=1)
        alone = await half.served.score(pixels[4:5], noise[4:5], context())
        assert torch.equal(alone.log_likelihood, bounds[1].log_likelihood[4:5])


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_model_that_was_replaced_goes_with_its_last_request(digits_model, device, digits, at_once):
    async with running_engine(digits_model, device) as engine:
        paces = engine.served.paces
        paces.update({kind: replace(pace, inline=at_once) for kind, pace in paces.items()})
        await engine.served.posterior(digits[:9], context())
        gone = weakref.ref(engine.served)
        await engine.replace(read_checkpoint(digits_model))
        await until(lambda: gone() is None)


async def test_a_closed_engine_is_neither_alive_nor_ready(digits_model, device):
    async with running_engine(digits_model, device) as engine:
        assert (engine.alive, engine.ready) == (True, True)
    assert (engine.alive, engine.ready) == (False, False)


async def test_one_row_has_the_networks_for_who_is_alone_and_a_batch_has_those_for_batches(digits_model):
    async with running_engine(digits_model, "cpu") as engine:
        served, other = engine.served, build(DIGITS, seed=1)
        served.networks = replace(served.networks, alone=other)  # to tell them apart
        served.programs.clear()
        pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), np.uint8)
        x = torch.from_numpy(pixels) / 255
        assert_close((await served.posterior(pixels[:1], context())).mean, other.posterior(x[:1]).mean)
        assert_close((await served.posterior(pixels, context())).mean, served.networks.swift.posterior(x).mean)
        engine.device.neighbours = CoreUsage([0, 1])  # one who computes
        assert_close((await served.posterior(pixels[:1], context())).mean, served.networks.swift.posterior(x[:1]).mean)
        engine.device.neighbours = CoreUsage()
        both = await asyncio.gather(*(served.posterior(pixels[n : n + 1], context()) for n in range(2)))
        assert_close(torch.cat([q.mean for q in both]), served.networks.swift.posterior(x[:2]).mean)
