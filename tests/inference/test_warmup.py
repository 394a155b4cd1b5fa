"""The warm-up is bounded in time and memory for every model, and a reload waits for its end."""

import asyncio
import logging
import re
import sys
import time
from contextlib import asynccontextmanager

import pytest

from app.context import Operation, RequestContext
from app.errors import Unavailable
from app.inference.calibration import SCORE, Variant
from app.inference.engine import Engine
from app.inference.memory import available, peak, reset_peak, resident
from app.observability.metrics import Metrics
from app.runtimes.selection import compile_model
from app.settings import Settings
from model.checkpoint import write_checkpoint
from model.config import VAEConfig
from model.formats import read_model
from model.interface import StoredModel
from tests.support.diffusers_models import write as write_diffusers
from tests.support.models import build, write
from tests.support.runtimes import intercepted

pytestmark = pytest.mark.anyio

SLOW = VAEConfig(image_shape=(1, 96, 96), latent_shape=(1, 24, 24), channels=(64, 64, 64), blocks=(2, 1, 1))
"""Some 10 GFLOP an image: a batch of 64 takes a core half a minute."""

WIDE = VAEConfig(image_shape=(3, 256, 256), latent_shape=(1, 256, 256), channels=(16,), blocks=(0,))
"""Few operations, and many megabytes of feature maps for each image."""

FIXED_SECONDS = 0.02
"""Time that each call of a model takes besides that of its pixels."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> StoredModel:
    return read_model(write(tmp_path_factory.mktemp("models") / "slow", SLOW))


@asynccontextmanager
async def started(stored: StoredModel, compile_model=compile_model, **options):
    settings = Settings(**{"device": "cpu", "threads": 1, **options})
    engine = Engine(stored, settings, Metrics(), compile_model=compile_model)
    engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def counting(rows: list[int]):
    """A function that compiles a model which records the rows of each batch."""
    return intercepted(lambda operation, batch, single: rows.append(len(batch)))


async def test_no_batch_of_a_slow_model_takes_long(slow, caplog):
    caplog.set_level(logging.INFO, "app.inference.warmup")
    rows: list[int] = []
    async with started(slow, compile_model=counting(rows)) as engine:
        assert await engine.wait_until_warm()
        assert max(rows) < 32
        assert sum(rows) < 200
        first, *_, last = [record.getMessage() for record in caplog.records if record.name == "app.inference.warmup"]
        assert first == f"warm-up of {slow.model.spec.identity}: measuring batches of up to 64 images"
        assert last.startswith(f"warm-up of {slow.model.spec.identity}: done after ")
        assert "images in a batch: encode " in last


@pytest.mark.skipif(not available() < sys.maxsize, reason="memory is measured on Linux")
async def test_no_batch_of_a_model_with_large_feature_maps_exceeds_its_share_of_the_memory(tmp_path, caplog):
    caplog.set_level(logging.INFO, "app.inference.warmup")
    stored = read_model(write(tmp_path / "wide", WIDE))
    before = resident()
    reset_peak()
    async with started(stored, runtime="onnxruntime", workers=64) as engine:
        assert await engine.wait_until_warm()
        assert peak() - before < 2**30  # batches of 64 take several times as much
        left_out = "one of [0-9]+ (would take about [0-9]+ MiB more, of [0-9]+ MiB allowed|is no faster)"
        assert re.search(left_out, caplog.text)
        assert engine.loaded_model.keys[Variant("decode")].policy.max_rows < 64


async def test_a_fast_model_has_batches_of_all_sizes(digits_model):
    async with started(read_model(digits_model)) as engine:
        assert await engine.wait_until_warm()
        calibration = engine.loaded_model.calibration
        assert calibration.sizes == calibration.deterministic_sizes == (1, 2, 4, 8, 16, 32, 64)
        assert engine.loaded_model.keys[Variant("encode")].policy.max_rows in (4, 8, 16, 32, 64)


async def test_rows_that_are_computed_one_by_one_form_no_batch_that_takes_long(slow):
    async with started(slow, runtime="torch", max_batch_size=2) as engine:
        assert await engine.wait_until_warm()
        keys = engine.loaded_model.keys
        seeded = keys[Variant("decode", deterministic=True)]
        assert not seeded.sizes
        assert 1 <= keys[SCORE].policy.max_rows <= seeded.policy.max_rows < 1000


async def test_a_reload_during_the_first_warm_up_waits_for_its_end(slow, digits_model, digits):
    async with started(slow, max_batch_size=1) as engine:
        first = asyncio.ensure_future(engine.wait_until_warm())
        small = read_model(digits_model)
        await engine.replace(small)
        assert first.done()
        assert engine.ready
        model = engine.loaded_model
        assert model.identity == small.model.spec.identity
        q = await model.posterior(digits[:9], RequestContext("id", time.monotonic() + 60))
        assert q.mean.shape == (9, 4)
        assert engine.loaded_model is model


async def test_a_failed_first_warm_up_makes_a_reload_unavailable(digits_model, tmp_path):
    weights = {name: weight * (1e30 if "decoder" in name else 1) for name, weight in build(SLOW).state_dict().items()}
    write_checkpoint(tmp_path / "broken", SLOW, weights)
    broken = read_model(tmp_path / "broken")
    async with started(broken, max_batch_size=1) as engine:
        with pytest.raises(Unavailable):
            await engine.replace(read_model(digits_model))
        assert engine.loaded_model.identity == broken.model.spec.identity
        assert not engine.ready


async def test_concurrent_reloads_run_one_after_the_other(digits_model, colour_model):
    async with started(read_model(digits_model)) as engine:
        models = [read_model(folder) for folder in (colour_model, digits_model, colour_model)]
        await asyncio.gather(*map(engine.replace, models))
        assert engine.ready
        assert engine.loaded_model.identity == models[-1].model.spec.identity


async def test_the_fixed_time_of_a_call_does_not_count_for_each_pixel_of_a_large_image(tmp_path):
    rows: list[int] = []

    def before(operation, batch, single) -> None:
        rows.append(len(batch))
        until = time.thread_time() + FIXED_SECONDS
        while time.thread_time() < until:
            pass

    stored = read_model(write_diffusers(tmp_path / "kl", "kl"))
    async with started(stored, compile_model=intercepted(before), max_batch_size=2, warm_sizes="64x64") as engine:
        assert await engine.wait_until_warm()
        loaded = engine.loaded_model
    assert loaded.calibration.pixel_costs[Operation.ENCODE].seconds * 64 * 64 < FIXED_SECONDS / 2
    assert max(rows) == loaded.sized.key(Variant(Operation.ENCODE, size=(128, 128))).policy.max_rows == 2


async def test_a_size_for_which_there_is_too_little_memory_is_not_warmed_up(tmp_path, caplog):
    caplog.set_level(logging.INFO, "app.inference.warmup")
    stored = read_model(write_diffusers(tmp_path / "kl", "kl"))
    async with started(stored, workers=64, warm_sizes="64x64,1024x1024") as engine:
        assert await engine.wait_until_warm()
    assert re.search("warm-up of 1024 x 1024 pixels is left out: it would take about [0-9]+ MiB of the", caplog.text)
