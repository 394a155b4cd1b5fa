"""Batches of a model of many sizes: they keep to the time and memory of a pixel, and large images become tiles."""

from dataclasses import replace

import numpy as np
import pytest

from app.batching.executor import OutOfMemory
from app.batching.requests import Abandoned
from app.batching.rows import RowBatch
from app.context import Operation
from app.errors import ContentTooLarge
from app.inference.calibration import Calibration, PixelCost, Variant
from app.inference.engine import Engine
from app.inference.sized_batches import SizedBatches
from app.observability.metrics import Metrics
from app.settings import Settings
from model.formats import read_model
from tests.support.diffusers_models import write
from tests.support.engines import context, running_engine
from tests.support.runtimes import intercepted

pytestmark = pytest.mark.anyio

KIB = 2**10
COST = PixelCost(seconds=1e-6, memory=KIB, pixels=4096)
ENCODE = Operation.ENCODE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("models") / "kl", "kl")


@pytest.fixture(scope="module")
def model(folder):
    return Engine(
        read_model(folder), Settings(model=folder, device="cpu", threads=1), Metrics()
    ).loaded_model.device_model


def batches(model, memory: int, on_tiled=lambda operation: None) -> SizedBatches:
    calibration = Calibration((1, 2, 4, 8, 16), pixel_costs={ENCODE: COST}, memory=memory)
    return SizedBatches(model, calibration, always_deterministic=False, on_tiled=on_tiled)


def test_a_batch_has_as_many_images_as_its_time_and_memory_allow(model):
    plenty = batches(model, 2**40)
    assert plenty.key(Variant(ENCODE, size=(64, 64))).policy.max_rows == 16
    assert plenty.key(Variant(ENCODE, size=(512, 512))).policy.max_rows == 3  # of a second
    assert plenty.key(Variant(ENCODE, size=(2048, 2048))).policy.max_rows == 1
    assert batches(model, 5 * 64 * 64 * KIB).key(Variant(ENCODE, size=(64, 64))).policy.max_rows == 5


def test_requests_share_batches_by_size_and_count_by_their_pixels(model):
    keys = batches(model, 2**40)
    small, same, large = (keys.key(Variant(ENCODE, size=size)) for size in ((64, 64), (64, 64), (256, 128)))
    assert small == same != large
    assert (small.weight, large.weight) == (1, 8)


def test_an_image_that_is_too_large_for_the_memory_is_computed_in_tiles_that_fit(model):
    tiled = []
    keys = batches(model, 2 * 256 * 256 * KIB, tiled.append)
    key = keys.key(Variant(ENCODE, size=(512, 512)))
    batch = key.stack([RowBatch((np.zeros((1, 3, 512, 512), np.uint8),))])
    mean, _ = key.run(batch, single=True, check=lambda: None).columns
    assert mean.shape == (1, 4, 64, 64)
    assert tiled == [ENCODE]
    assert key.model.compiled.model.vae.tile_sample_min_size == 256
    assert not keys.key(Variant(ENCODE, size=(256, 256))).model.compiled.model.vae.use_tiling


def test_an_image_in_tiles_is_abandoned_between_two_of_its_layers(model):
    checks = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 60:
            raise Abandoned

    key = batches(model, 2 * 256 * 256 * KIB).key(Variant(ENCODE, size=(512, 512)))
    with pytest.raises(Abandoned):
        key.run(RowBatch((np.zeros((1, 3, 512, 512), np.uint8),)), single=True, check=check)
    assert len(checks) == 60
    key.run(RowBatch((np.zeros((1, 3, 512, 512), np.uint8),)), single=True, check=lambda: None)


def test_images_that_take_far_longer_than_their_request_may_are_refused(model):
    keys = batches(model, 2**40)
    keys.require_time(ENCODE, (1000, 1000), 3, seconds=1)
    with pytest.raises(ContentTooLarge, match=r"4 images of 1000 x 1000 take about 4 s to encode, more than the 1 s"):
        keys.require_time(ENCODE, (1000, 1000), 4, seconds=1)


def test_the_time_of_attention_grows_with_the_square_of_the_pixels(model):
    cost = COST._replace(growth=1e-6)
    calibration = Calibration((1, 2, 4), pixel_costs={ENCODE: cost}, memory=2**40)
    keys = SizedBatches(model, calibration, always_deterministic=False, on_tiled=lambda operation: None)
    assert cost.of_image(10**6) == pytest.approx(2)
    assert keys.key(Variant(ENCODE, size=(512, 512))).policy.max_rows == 3
    assert keys.key(Variant(ENCODE, size=(640, 640))).policy.max_rows == 1
    keys.require_time(ENCODE, (2000, 2000), 1, seconds=16)
    with pytest.raises(ContentTooLarge, match="1 image of 2000 x 2000 take about 20 s to encode, more than the 15 s"):
        keys.require_time(ENCODE, (2000, 2000), 1, seconds=15)


def test_an_image_in_tiles_takes_no_time_for_attention_over_all_of_it(model):
    cost = COST._replace(growth=1.0)
    calibration = Calibration((1,), pixel_costs={ENCODE: cost}, memory=2 * 256 * 256 * KIB)
    keys = SizedBatches(model, calibration, always_deterministic=False, on_tiled=lambda operation: None)
    keys.require_time(ENCODE, (512, 512), 1, seconds=1)
    with pytest.raises(ContentTooLarge):
        keys.require_time(ENCODE, (256, 256), 1, seconds=1)


def test_attention_that_takes_memory_for_each_pair_of_pixels_limits_the_size_of_an_image(model):
    cost = COST._replace(pair_memory=KIB / 2**12)  # as much as that of a single pixel in an image of 64 x 64
    assert cost.bytes_of(2**14) == 5 * 2**14 * KIB
    assert cost.pixels_in(5 * 2**14 * KIB) == 2**14
    calibration = Calibration((1, 2, 4), pixel_costs={ENCODE: cost}, memory=10 * 2**14 * KIB)
    keys = SizedBatches(model, calibration, always_deterministic=False, on_tiled=lambda operation: None)
    assert keys.key(Variant(ENCODE, size=(128, 128))).policy.max_rows == 2
    assert 2**14 < keys.max_untiled_pixels(ENCODE) < 2**15


def test_tiles_are_smaller_beside_a_larger_image_until_none_fits(model):
    keys = batches(model, 2 * 256 * 256 * KIB)
    for side, tile in ((800, 256), (1200, 128)):
        vae = keys.key(Variant(ENCODE, size=(side, side))).model.compiled.model.vae
        assert vae.tile_sample_min_size == tile
    with pytest.raises(
        ContentTooLarge, match=r"images of 1600 x 1600 take about 2500 MiB to encode, .*; at most 1631118 pixels fit"
    ):
        keys.require_memory(ENCODE, (1600, 1600))


def test_an_image_for_which_not_even_a_tile_fits_is_refused(model):
    keys = batches(model, 64 * 64 * KIB)
    keys.require_memory(ENCODE, (64, 64))
    with pytest.raises(
        ContentTooLarge, match=r"images of 128 x 64 take about 8 MiB to encode, .* at most 4096 pixels fit"
    ):
        keys.require_memory(ENCODE, (64, 128))


async def test_an_image_for_which_the_memory_runs_out_is_computed_in_tiles(folder):
    metrics = Metrics()

    def before(operation, batch, single) -> None:
        if batch.columns[0].shape[0] > 1 or batch.columns[0].shape[-1] > 128:
            raise OutOfMemory("no memory")

    async with running_engine(
        folder, "cpu", metrics=metrics, compile_model=intercepted(before), max_batch_size=2
    ) as engine:
        pixels = np.zeros((2, 3, 64, 192), np.uint8)
        mean, _ = await engine.loaded_model.encode(pixels, context())
        assert mean.shape == (2, 4, 8, 24)
        assert metrics.registry.get_sample_value("vae_tiled_images_total", {"operation": "encode"}) == 2


async def test_after_the_warm_up_an_image_is_refused_whose_attention_would_outlast_its_deadline(folder):
    async with running_engine(folder, "cpu", max_batch_size=1) as engine:
        loaded = engine.loaded_model
    plenty = replace(loaded.calibration, memory=2**60)  # else it is computed in tiles
    keys = SizedBatches(loaded.device_model, plenty, always_deterministic=False, on_tiled=lambda operation: None)
    for operation in (ENCODE, Operation.DECODE, Operation.RECONSTRUCT, Operation.SCORE):
        keys.require_time(operation, (256, 256), 1, seconds=30)
        with pytest.raises(ContentTooLarge, match="1 image of 16384 x 4096 take about"):
            keys.require_time(operation, (4096, 16384), 1, seconds=30)
    linear = {each: cost._replace(growth=0.0) for each, cost in plenty.pixel_costs.items()}
    assert plenty.pixel_costs[ENCODE].of_image(4096**2) > 10 * linear[ENCODE].of_image(4096**2)
