"""`vae train` on folders of image files: what follows from the files, and what cannot work with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.checkpoint import read_checkpoint
from tests.support.cli_runner import SMALL, refusal, vae


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder of 80 small colour images in two class folders, and a damaged file."""
    draw = np.random.default_rng(0)
    for number in range(80):
        image = np.full((16, 16, 3), 255, np.uint8)
        top, left = draw.integers(0, 10, 2)
        image[top : top + 6, left : left + 6] = draw.integers(0, 256, 3)
        path = tmp_path / "shapes" / ("even", "odd")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "shapes" / "odd" / "damaged.png").write_bytes(b"nothing")
    return tmp_path / "shapes"


def test_a_folder_of_images_needs_no_other_option(shapes: Path, tmp_path: Path) -> None:
    result = vae("train --epochs 1 --channels 8 --device cpu", "--data", shapes, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    checkpoint = read_checkpoint(tmp_path / "run")
    assert (checkpoint.vae.config.image_shape, checkpoint.vae.config.likelihood) == ((3, 16, 16), "logistic-shared")
    for line in (
        "  --image-shape 3,16,16: colour; the size of 80 of 80 images is 16x16; multiples of 4",
        "  --likelihood logistic-shared --init data: the images have colours",
        "  --test-share 0.1: the data have no test split",
        f"  {shapes / 'odd' / 'damaged.png'}: expected an image file, got 7 bytes of another format",
    ):
        assert f"vae: {line}\n" in result.stderr
    recorded = checkpoint.metrics.entries["training"]
    assert recorded["data"]["skipped"] == 1
    assert recorded["data"]["classes"].keys() == {"even", "odd"}
    assert recorded["options"]["kl_warmup"] == 0.1
    assert recorded["best_epoch"] == 1


def test_bernoulli_is_refused_for_colour_images(shapes: Path, tmp_path: Path) -> None:
    line = f"train {SMALL} --epochs 1 --warmup 0"
    result = vae(line, "--data", shapes, "--out", tmp_path / "run")
    assert result.exit_code == 2
    expected = "vae: --likelihood: expected logistic, or binarize none, for colour"
    assert result.stderr.splitlines()[-1].startswith(expected)
    assert vae(f"{line} --binarize none", "--data", shapes, "--out", tmp_path / "run").exit_code == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--likelihood bernoulli", "--likelihood: expected logistic, or binarize none, for colour images"),
        ("--likelihood poisson", "--likelihood: expected one of bernoulli"),
        ("--channels 8,8 --blocks 1", "--blocks: expected as many as channels, got (1,)"),
        ("--channels 8 --hidden= --latent 4,3,3", "--latent: expected a latent on the coarsest grid (8, 8)"),
        ("--epochs 2 --kl-warmup 3", "--kl-warmup: expected at most the 2 epochs of the training, got 3"),
        ("--epochs 2 --warmup 99", "--warmup: expected at most the 12 steps of the training, got 99"),
        ("--epochs 2 --batch-size 90 --warmup 3", "--warmup: expected at most the 2 steps of the training, got 3"),
        ("--holdout 90", "--holdout: expected fewer than the 81 training images, got 90"),
        ("--holdout 0 --patience 3", "--patience: expected images for validation; holdout is 0"),
    ],
)
def test_options_that_cannot_work_are_reported_before_all_images_are_read(
    shapes: Path, tmp_path: Path, options: str, reason: str
) -> None:
    for path in (shapes / "odd").iterdir():
        path.write_bytes(path.read_bytes()[:60])  # the head with the size is whole
    message = refusal(vae(f"train {options}", "--data", shapes, "--out", tmp_path / "run"))
    assert message.startswith(reason)
    assert "files in" in refusal(vae("train", "--data", shapes, "--out", tmp_path / "run"))


@pytest.mark.parametrize("options", ["--minutes 0.001", "--latent 8,8,8 --epochs 1", "--binarize none --epochs 1"])
def test_options_that_depend_on_the_images_are_left_until_all_are_read(shapes: Path, tmp_path: Path, options) -> None:
    line = f"train --channels 8 --hidden= --latent 8,8,8 --warmup 1 --kl-warmup 1 --device cpu {options}"
    result = vae(line, "--data", shapes, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_image_files_are_resized_to_the_given_shape(tmp_path: Path, digits: np.ndarray) -> None:
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(digits[:60, 0]):
        Image.fromarray(image).resize((20, 14)).save(tmp_path / "pictures" / f"{number}.png")
    line = f"train {SMALL} --epochs 1 --image-shape 3,9,7 --likelihood logistic --warmup 0"
    result = vae(line, "--data", tmp_path / "pictures", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    checkpoint = read_checkpoint(tmp_path / "run")
    assert checkpoint.vae.config.image_shape == (3, 9, 7)
    assert checkpoint.metrics.training.options.binarize == "none"
