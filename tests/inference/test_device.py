"""The device is the one of the settings."""

import pytest
import torch

from app.inference.device import TorchDevice, choose_device
from app.settings import Settings
from model.errors import UserError


def test_a_device_that_does_not_exist_is_named():
    count = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"CUDA devices? here, got cuda:{count}"):
        choose_device(f"cuda:{count}")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto") == torch.device("cuda:0" if count else "cpu")


def test_the_target_has_the_precision_and_the_threads_of_the_settings():
    target = TorchDevice(Settings(device="cpu", threads=3, precision="bfloat16")).target
    assert (target.precision, target.threads, target.max_threads) == ("bfloat16", 3, 3)
