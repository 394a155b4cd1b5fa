"""The format of a model folder is recognised by what the folder holds."""

from pathlib import Path

import numpy as np
import pytest

from model.files import CheckpointError
from model.formats import check_model, format_of, read_model
from model.interface import LatentScaling


def test_a_checkpoint_of_this_project_is_recognised(digits_model):
    stored = read_model(digits_model)
    assert format_of(digits_model) == stored.model.spec.format == "native"
    check_model(digits_model)


@pytest.mark.parametrize(
    ("files", "found"), [((), "no files"), (("b.txt", "a.bin", "sub/c"), "a.bin, b.txt, sub/"), ("123456789", "8, ...")]
)
def test_a_folder_without_a_model_is_refused_with_its_content_and_the_needs_of_each_format(
    tmp_path: Path, files: tuple[str, ...], found: str
):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError) as refusal:
        read_model(tmp_path)
    assert f"{found}; expected" in str(refusal.value)
    assert "native: config.json and model.safetensors" in str(refusal.value)
    assert "docs/models.md" in str(refusal.value)


@pytest.mark.parametrize("scaling", [LatentScaling((0.5,), (2.0,)), LatentScaling((0.5, 4.0), (2.0, -1.0))])
def test_scaled_latents_are_those_of_the_formula_and_can_be_converted_back(scaling):
    z = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float32)
    scaled = scaling.scaled(z)
    for channel in range(2):
        shift, scale = scaling.shift[channel % len(scaling.shift)], scaling.scale[channel % len(scaling.scale)]
        np.testing.assert_allclose(scaled[:, channel], (z[:, channel] - shift) * scale, rtol=1e-6)
        np.testing.assert_allclose(
            np.exp(scaling.scaled_logvar(z)[:, channel]), np.exp(z[:, channel]) * scale**2, rtol=1e-5
        )
    np.testing.assert_allclose(scaling.unscaled(scaled), z, atol=1e-6)
    assert scaled.dtype == np.float32
