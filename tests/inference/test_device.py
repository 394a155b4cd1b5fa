"""The device is the one that was asked for, takes batches of shapes that were warmed, and leaves what is quick."""

import numpy as np
import pytest
import torch

from app.batching.policy import CPU_INLINE_SECONDS
from app.batching.rows import RowBatch
from app.inference.device import HOP, TorchDevice, choose_device
from app.inference.engine import Engine
from app.observability.metrics import Metrics
from app.settings import Settings
from model.checkpoint import read_checkpoint


def test_a_device_that_is_not_there_is_named():
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"CUDA devices? here, got cuda:{count}"):
        choose_device(f"cuda:{count}")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto") == torch.device("cuda:0" if count else "cpu")


def test_every_warmed_shape_fits_a_batch_of_any_size(digits_model):
    settings = Settings(device="cpu", max_batch_size=48)
    engine = Engine(read_checkpoint(digits_model), settings, Metrics())
    rows = np.zeros((48, 1, 8, 8), np.uint8)
    work = engine.served.work("encode")
    shapes = [len(engine.device.stack(work, [RowBatch((rows[:n],))])) for n in range(1, 49)]
    assert set(shapes) == {1, 2, 4, 8, 16, 32, 48}


def test_a_gpu_leaves_all_its_batches_to_the_event_loop_or_none(device):
    there = TorchDevice(Settings(device=device), Metrics())
    quick, slow = {1: HOP / 4, 256: HOP / 2}, {1: HOP / 4, 256: 2 * HOP}
    assert (there.quick(quick), there.quick(slow)) == (
        (HOP, 0) if there.is_gpu else (CPU_INLINE_SECONDS, CPU_INLINE_SECONDS)
    )
