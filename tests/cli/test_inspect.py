"""`vae inspect`: a model is described and tried, and one that could not be served is refused with exit code 2."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.cli_runner import refusal, vae
from tests.support.onnx_pairs import write_spatial_pair, write_vector_pair


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 13, 3), np.uint8)).save(path)
    return path


def rows(stdout: str) -> dict[str, str]:
    """The rows of the table: a name, two or more spaces, and the rest."""
    return {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in stdout.splitlines())}


def test_a_checkpoint_is_described_and_tried_without_an_image(digits_model: Path) -> None:
    result = vae("inspect --device cpu", "--model", digits_model)
    assert result.exit_code == 0, result.output
    found = rows(result.stdout)
    assert found["format"] == "native"
    assert found["images"] == "1 channel, 8 x 8"
    assert found["latents"] == "4; Gaussian"
    assert found["operations"].endswith("to decode an image of 8 x 8")
    assert {found["/sample"], found["ELBO of /score"], found["/encode, /decode, /reconstruct"]} == {"yes"}
    assert found["device"] == "cpu, float32, onnxruntime"


def test_a_file_in_place_of_a_model_is_refused_as_a_pickle_that_is_not_loaded(tmp_path: Path) -> None:
    pickle = tmp_path / "vae.pt"
    pickle.write_bytes(bytes(8))
    message = refusal(vae("inspect --model", pickle))
    assert message.startswith(f"{pickle}: expected the folder of a model, got a file; vae.pt is a pickle")
    assert "is not loaded" in message


def test_a_folder_in_place_of_an_image_is_the_model(digits_model: Path) -> None:
    result = vae("inspect --device cpu", digits_model)
    assert result.exit_code == 0, result.output
    assert rows(result.stdout)["format"] == "native"


def test_a_shipped_model_is_inspected_by_its_name() -> None:
    result = vae("inspect mnist --device cpu")
    assert result.exit_code == 0, result.output
    assert "mnist" in result.stdout


def test_a_model_and_an_image_are_both_arguments(tmp_path: Path, photo: Path) -> None:
    model, other, out = (
        write_spatial_pair(tmp_path / "model", prior=False),
        write_vector_pair(tmp_path / "other"),
        tmp_path / "out.png",
    )
    result = vae("inspect --device cpu", model, photo, "--out", out)
    assert result.exit_code == 0, result.output
    assert rows(result.stdout)["images"].startswith("3 channels, sides that are multiples of 4")
    assert rows(result.stdout)["time"].endswith("an image of 12 x 20")
    refused = refusal(vae("inspect --model", other, model, photo))
    assert refused == f"{model}: expected an image file beside --model {other}, got a second model"
    assert "expected the folder of a model, got a file" in refusal(vae("inspect", photo, model))


def test_the_usage_names_the_model_and_the_image() -> None:
    assert "inspect [OPTIONS] [MODEL] [IMAGE]" in vae("inspect --help").stdout


def test_an_image_is_fitted_reconstructed_and_written_with_its_error(tmp_path: Path, photo: Path) -> None:
    model, out = write_spatial_pair(tmp_path / "model", prior=False, scaling_factor=0.5), tmp_path / "out.png"
    result = vae("inspect --device cpu", "--model", model, photo, "--out", out)
    assert result.exit_code == 0, result.output
    found = rows(result.stdout)
    assert found["images"] == "3 channels, sides that are multiples of 4 from 4 to 64; 16 x 16 by default"
    assert found["latents"].startswith("2 x 4 x 4 for 16 x 16, factor 4; Gaussian; scaled")
    assert found["/sample"].startswith("no: its latents are not distributed")
    assert found["time"].endswith("an image of 12 x 20")
    original, image, error = np.split(np.asarray(Image.open(out)).astype(int), 3, axis=1)
    assert original.shape == (20, 12, 3)
    np.testing.assert_array_equal(error, np.minimum(4 * np.abs(original - image), 255))
    psnr = 10 * np.log10(255**2 / np.mean((original - image) ** 2))
    assert found["PSNR"] == f"{psnr:.2f} dB"


def test_a_model_or_an_image_that_cannot_be_used_is_refused(tmp_path: Path, photo: Path) -> None:
    model = write_vector_pair(tmp_path / "model")
    assert "not a model folder" in refusal(vae("inspect --model", tmp_path))
    assert "precision: expected float32" in refusal(vae("inspect --precision bfloat16 --device cpu --model", model))
    assert "device: expected" in refusal(vae("inspect --device tpu --model", model))
    assert "expected an image file beside --model" in refusal(vae("inspect --model", model, tmp_path))
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    assert f"{text}: expected PNG" in refusal(vae("inspect --device cpu --model", model, text))
    (model / "encoder.onnx").write_bytes(b"\xff" * 10)
    assert "encoder.onnx: not an ONNX graph" in refusal(vae("inspect --device cpu --model", model, photo))
