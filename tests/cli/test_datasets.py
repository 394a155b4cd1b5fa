"""`vae encode`: what it prints, and its exit codes."""

from pathlib import Path

import pytest

from tests.support.cli_runner import refusal, vae
from tests.support.image_folders import write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 9)
    return tmp_path / "images"


def test_a_data_set_is_encoded_and_then_found_complete(images: Path, digits_model: Path, tmp_path: Path) -> None:
    line = ["encode --device cpu --threads 1", images, "--model", digits_model, "--out", tmp_path / "out"]
    result = vae(*line)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("encoded 9 images, 0 were there; ")
    assert result.stdout.endswith(f"{tmp_path / 'out'} has 9 images in 1 shard\n")
    assert vae(*line).stdout.startswith("encoded 0 images, 9 were there\n")


def test_unreadable_images_are_named_and_the_exit_code_is_3(images: Path, digits_model: Path, tmp_path: Path) -> None:
    (images / "кот.png").write_bytes(b"broken")
    line = ["encode --device cpu --threads 1", images, "--model", digits_model, "--out", tmp_path / "out"]
    result = vae(*line)
    assert result.exit_code == 3
    assert "vae: 1 image cannot be read" in result.stderr
    assert "кот.png: expected PNG" in result.stderr
    again = vae(*line)
    assert again.exit_code == 3
    assert again.stdout.startswith("encoded 0 images, 9 were there\n")
    assert again.stderr.startswith("vae: 1 image cannot be read")
    assert "strict" in refusal(vae(*line, "--strict", "--retry"))
    (images / "кот.png").unlink()
    assert vae(*line).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--fit stretch", "--fit: expected resize, pad, crop, exact, got 'stretch'"),
        ("--dtype float64", "--dtype: expected float32, float16, bfloat16, got 'float64'"),
        ("--bucket 512", "--bucket: expected sizes such as 512x512,768x512, got '512'"),
        ("--bucket 16x16", "bucket 16x16: height: expected 8, the only one that the model takes, got 16"),
        ("--samples -1", "--samples: expected 0 to 4096, got -1"),
        ("--shard-size -1", "--shard-size: expected 0 to 1000000000, got -1"),
        ("--batch-size 5000", "--batch-size: expected 0 to 4096, got 5000"),
        ("--seed -1", "--seed: expected 0 to 9223372036854775807, got -1"),
        ("--threads -1", "--threads: expected 0 to 1024, got -1"),
        ("--precision int8", "precision: expected 'float32', 'bfloat16' or 'float16', got 'int8' from --precision"),
        ("--device tpu", "device: expected auto, cpu, cuda or cuda:N, got 'tpu' from --device"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(
    images: Path, digits_model: Path, tmp_path: Path, options: str, message: str
) -> None:
    line = f"encode {options}" if "--device" in options else f"encode --device cpu {options}"
    assert refusal(vae(line, images, "--model", digits_model, "--out", tmp_path / "out")) == message


def test_a_source_without_images_is_refused(digits_model: Path, tmp_path: Path) -> None:
    message = refusal(vae("encode --device cpu", tmp_path, "--model", digits_model, "--out", tmp_path / "out"))
    assert message.startswith(f"{tmp_path}: expected images (.avif ")


def test_latents_are_decoded_and_images_reconstructed(images: Path, digits_model: Path, tmp_path: Path) -> None:
    model = ["--model", digits_model, "--device", "cpu", "--threads", "1"]
    assert vae("encode", images, *model, "--out", tmp_path / "latents").exit_code == 0
    decoded = vae("decode", tmp_path / "latents", *model, "--out", tmp_path / "decoded", "--image-format", "webp")
    assert decoded.exit_code == 0, decoded.output
    assert decoded.stdout.startswith(f"wrote 9 images to {tmp_path / 'decoded'}, 0 were there; ")
    (images / "broken.png").write_bytes(b"broken")
    reconstructed = vae("reconstruct", images, *model, "--out", tmp_path / "reconstructed")
    assert reconstructed.exit_code == 3
    assert "vae: 1 image could not be computed" in reconstructed.stderr
    decode = ("decode", tmp_path / "latents", *model, "--out", tmp_path / "refused")
    assert refusal(vae(*decode, "--draw", "0")) == (
        f"--draw: expected latents with draws, encoded with --samples, got 0 for {tmp_path / 'latents'}"
    )
    assert "--quality: expected 1 to 100, got 0" in refusal(vae(*decode, "--quality", "0"))
    assert "--image-format: expected png, jpeg, webp, got 'gif'" in refusal(vae(*decode, "--image-format", "gif"))
    assert "--device: expected one device, got 'cpu,cpu'" in refusal(vae(*decode, "--device", "cpu,cpu"))
    assert not (tmp_path / "refused").exists()
