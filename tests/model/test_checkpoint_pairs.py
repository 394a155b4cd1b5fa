"""Tests that config, weights and metrics are read consistently while another process replaces them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from model.checkpoint import read_checkpoint, write_checkpoint
from model.config import VAEConfig
from model.files import CONFIG, WEIGHTS, CheckpointError
from tests.support.models import build

SCALES = [
    VAEConfig(image_shape=(1, 8, 8), latent_shape=(2,), hidden=(4,), likelihood="gaussian", scale=s) for s in (1, 2)
]

WRITER = """
import sys, time
from pathlib import Path
import torch
from model.checkpoint import METRICS, write_checkpoint
from model.files import write_json
from model.config import VAEConfig
from model.vae import VAE
folder, number = Path(sys.argv[1]), 0
while True:
    number += 1
    scale = 1 + number % 7
    config = VAEConfig(image_shape=(1, 8, 8), latent_shape=(2,), hidden=(4,), likelihood="gaussian", scale=scale)
    weights = {key: torch.full_like(value, scale) for key, value in VAE(config).state_dict().items()}
    digest = write_checkpoint(folder, config, weights)
    write_json(folder / METRICS, {"weights": digest, "notes": scale})
    print(number, flush=True)
    time.sleep(0.01)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, SCALES[0], build(SCALES[0]).state_dict())
    return tmp_path


def test_weights_with_the_config_of_another_model_are_refused(folder: Path) -> None:
    (folder / CONFIG).write_text(json.dumps(SCALES[1].as_dict()))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    assert str(caught.value) == f"{folder / CONFIG}: {WEIGHTS} in this folder was written with another {CONFIG}"


def test_a_config_is_recognised_with_other_white_space_and_field_order(folder: Path) -> None:
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(dict(reversed(values.items()))))
    assert read_checkpoint(folder).vae.config == SCALES[0]


def test_weights_without_a_config_digest_are_read_with_any_config_of_their_shapes(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(SCALES[1].as_dict()))
    assert read_checkpoint(folder).vae.config == SCALES[1]


def test_checkpoints_are_consistent_while_another_process_replaces_them(folder: Path) -> None:
    arguments = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            seen = [read_checkpoint(folder) for _ in range(40)]
        finally:
            process.kill()
    assert len({checkpoint.digest for checkpoint in seen}) > 1
    for checkpoint in seen:
        (scale,) = {value for weight in checkpoint.vae.parameters() for value in weight.unique().tolist()}
        assert checkpoint.vae.config.scale == scale
        assert checkpoint.metrics.entries.get("notes", scale) == scale
