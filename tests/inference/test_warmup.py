"""The warm-up ends in a bounded time and memory, whatever the model; a reload meanwhile waits for its end."""

import asyncio
import logging
import re
import sys
import time
from contextlib import asynccontextmanager

import pytest

from app.context import RequestContext
from app.errors import Unavailable
from app.inference.engine import Engine
from app.inference.memory import available, peak, reset_peak, resident
from app.observability.metrics import Metrics
from app.runtimes.batch_invariance import keeps_rows_apart, program_keeps_rows_apart
from app.runtimes.onnx_program import programs
from app.runtimes.selection import compiled
from app.settings import Settings
from model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from model.config import VAEConfig
from tests.support.models import DIGITS, build, write

pytestmark = pytest.mark.anyio

SLOW = VAEConfig(image_shape=(1, 96, 96), latent_shape=(1, 24, 24), channels=(64, 64, 64), blocks=(2, 1, 1))
"""Some 10 GFLOP an image: a batch of 64 takes a core half a minute."""

WIDE = VAEConfig(image_shape=(3, 256, 256), latent_shape=(1, 256, 256), channels=(16,), blocks=(0,))
"""Little work, and many megabytes of feature maps for each image."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> Checkpoint:
    return read_checkpoint(write(tmp_path_factory.mktemp("models") / "slow", SLOW))


@asynccontextmanager
async def started(checkpoint: Checkpoint, **options):
    engine = Engine(checkpoint, Settings(**{"device": "cpu", "threads": 1, **options}), Metrics())
    engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def counted(engine: Engine) -> list[int]:
    """The rows of every batch that the encoders compute from now on."""
    rows: list[int] = []
    networks = engine.served.networks
    for vae in {id(vae): vae for vae in (networks.exact, networks.swift, networks.alone)}.values():
        vae.encoder.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


async def test_of_a_slow_model_no_batch_is_tried_that_takes_long(slow, caplog):
    caplog.set_level(logging.INFO, "app.inference.warmup")
    engine = Engine(slow, Settings(device="cpu", threads=1), Metrics())
    rows = counted(engine)
    engine.start()
    assert await engine.warmed()
    assert max(rows) < 32
    assert sum(rows) < 200
    first, *_, last = [record.getMessage() for record in caplog.records if record.name == "app.inference.warmup"]
    assert first == f"warm-up of {slow.identity}: measuring batches of up to 64 images"
    assert last.startswith(f"warm-up of {slow.identity}: done after ")
    assert "images in a batch: encode " in last
    await engine.close()


@pytest.mark.skipif(not available() < sys.maxsize, reason="memory is counted on Linux")
async def test_of_a_model_of_large_feature_maps_no_batch_is_tried_that_takes_more_than_a_share_of_the_memory(
    tmp_path, caplog
):
    caplog.set_level(logging.INFO, "app.inference.warmup")
    checkpoint = read_checkpoint(write(tmp_path / "wide", WIDE))
    settings = Settings(device="cpu", threads=1, runtime="onnxruntime", workers=64)
    engine = Engine(checkpoint, settings, Metrics())
    before = resident()
    reset_peak()
    engine.start()
    assert await engine.warmed()
    assert peak() - before < 2**30  # batches of 64 take several times as much
    assert re.search(
        "one of [0-9]+ (would take about [0-9]+ MiB more, of [0-9]+ MiB allowed|is no faster)", caplog.text
    )
    assert engine.device.pace(engine.served.work("decode")).max_rows < 64
    await engine.close()


async def test_a_model_that_is_quick_has_batches_of_all_sizes(digits_model):
    async with started(read_checkpoint(digits_model)) as engine:
        assert await engine.warmed()
        assert engine.served.sizes == engine.served.apart == [1, 2, 4, 8, 16, 32, 64]
        assert engine.device.pace(engine.served.work("encode")).max_rows in (4, 8, 16, 32, 64)


async def test_rows_one_by_one_make_no_batch_that_takes_long(slow):
    async with started(slow, runtime="torch", max_batch_size=2) as engine:
        assert await engine.warmed()
        exact, score = engine.served.work("decode", exact=True), engine.served.scoring()
        assert exact.by_row
        assert 1 <= engine.device.pace(score).max_rows <= engine.device.pace(exact).max_rows < 1000


def test_rows_that_cannot_be_compared_in_time_are_not_known_to_be_kept_apart():
    vae = build(DIGITS)
    assert not keeps_rows_apart(compiled(vae), [1, 2], compiled(vae), until=time.monotonic())
    for program in programs(vae, threads=1).values():
        assert not program_keeps_rows_apart(program, DIGITS, [1, 2], until=time.monotonic())


async def test_a_reload_during_the_first_warm_up_is_served_after_it_by_its_own_limits(slow, digits_model, digits):
    async with started(slow, max_batch_size=1) as engine:
        first = asyncio.ensure_future(engine.warmed())
        small = read_checkpoint(digits_model)
        await engine.replace(small)
        assert first.done()
        assert engine.ready
        assert engine.served.model == small.identity
        paces = dict(engine.served.paces)
        answer = await engine.served.posterior(digits[:9], RequestContext("id", time.monotonic() + 60))
        assert answer.mean.shape == (9, 4)
        assert (engine.served.model, engine.served.paces) == (small.identity, paces)


async def test_a_first_model_that_does_not_get_warm_takes_no_device_from_the_model_of_a_reload(digits_model, tmp_path):
    weights = {name: weight * (1e30 if "decoder" in name else 1) for name, weight in build(SLOW).state_dict().items()}
    write_checkpoint(tmp_path / "broken", SLOW, weights)
    broken = read_checkpoint(tmp_path / "broken")
    async with started(broken, max_batch_size=1) as engine:
        with pytest.raises(Unavailable):
            await engine.replace(read_checkpoint(digits_model))
        assert engine.served.model == broken.identity
        assert not engine.ready


async def test_reloads_that_come_together_are_served_one_after_the_other(digits_model, colour_model):
    async with started(read_checkpoint(digits_model)) as engine:
        models = [read_checkpoint(folder) for folder in (colour_model, digits_model, colour_model)]
        await asyncio.gather(*map(engine.replace, models))
        assert engine.ready
        assert engine.served.model == models[-1].identity
