"""PyTorch in eager mode: the results of models of other formats."""

import numpy as np
import pytest
import torch

from app.batching.rows import RowBatch
from app.context import Operation
from app.runtimes.base import Target
from app.runtimes.torch_eager import TorchRuntime
from model.formats import read_model

pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
from tests.support.diffusers_models import build, write


@torch.inference_mode()
def test_an_image_of_nearly_one_colour_has_the_latents_of_double_precision(tmp_path):
    image = np.full((1, 3, 256, 256), 100, np.uint8)
    image[..., 100:110, 100:110] = 101
    compiled = TorchRuntime().compile(read_model(write(tmp_path, "kl")).model, Target(torch.device("cpu")))
    mean, _ = compiled.run(Operation.ENCODE, RowBatch((image,)), deterministic=False).columns
    exact = build("kl").double().encode(torch.from_numpy(image).double() / 127.5 - 1).latent_dist.mean
    assert np.abs(mean - exact.numpy()).max() < 1e-4
