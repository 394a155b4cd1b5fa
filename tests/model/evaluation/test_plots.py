"""Tests of the plots of a trained model: content, size, reproducibility."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import VAEConfig
from model.data.arrays import MAX_PIXELS_PER_PASS
from model.evaluation.plots import (
    COLUMNS,
    GAP,
    LABEL_WIDTH,
    MAX_IMAGE_SIDE,
    ROWS,
    choose_images,
    learning_curve,
    prior_samples,
    reconstructions,
    traversal,
    write_plots,
)
from model.records import EpochRecord
from tests.support.models import COLOUR, DIGITS, build

RECORDS = [EpochRecord(n, -100 / n, -90 / n, 10 / n, -101 / n, 1e-3, 1e3, 1.0) for n in range(1, 6)]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_all_plots_are_written_reproducibly(tmp_path: Path, digits: np.ndarray) -> None:
    for name in ("first", "again"):
        write_plots(tmp_path / name, build(DIGITS), digits, RECORDS)
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["learning.png", "reconstructions.png", "samples.png", "traversal.png"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_originals_are_above_their_reconstructions(tmp_path: Path, digits: np.ndarray) -> None:
    write_plots(tmp_path, build(DIGITS), digits)
    picture = pixels(tmp_path / "reconstructions.png")[..., 0]
    size = 56
    assert picture.shape == (ROWS * size + 3 * GAP, LABEL_WIDTH + COLUMNS * size)
    shown = choose_images(digits, ROWS // 2 * COLUMNS, 0)
    images = picture[:, LABEL_WIDTH:]
    assert np.array_equal(images[:size:7, : 2 * size : 7], np.concatenate([shown[0, 0], shown[1, 0]], axis=1))
    second = 2 * size + GAP
    assert np.array_equal(images[second : second + size : 7, :size:7], shown[COLUMNS, 0])
    assert (picture[2 * size : second] == 255).all()
    assert (picture[:size, :LABEL_WIDTH] < 128).any()


def test_shown_images_are_chosen_at_random_by_the_seed(digits: np.ndarray) -> None:
    first, again, other = (choose_images(digits, 20, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, digits[:20])
    assert len(choose_images(digits[:5], 20, 0)) == 5


@pytest.mark.parametrize("count", [1, 5, 13])
def test_a_few_images_are_enough(tmp_path: Path, count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 13, 9), np.uint8)
    write_plots(tmp_path, build(COLOUR), images)
    assert not (tmp_path / "learning.png").exists()
    assert pixels(tmp_path / "reconstructions.png").shape[1] == LABEL_WIDTH + min(count, COLUMNS) * 9 * 4


def test_reconstructions_are_the_means_of_the_model(digits: np.ndarray) -> None:
    vae, x = build(DIGITS), torch.tensor(digits[:24]) / 255
    rows = reconstructions(vae, digits[:24])
    assert rows.shape == (4, 12, 1, 8, 8)
    torch.testing.assert_close(rows[3], vae.likelihood(vae.posterior(x[12:]).mean).mean.detach())


def test_a_seed_determines_the_samples() -> None:
    vae = build(DIGITS)
    assert prior_samples(vae, 1).equal(prior_samples(vae, 1))
    assert not prior_samples(vae, 1).equal(prior_samples(vae, 2))


def test_a_traversal_varies_one_latent_per_row(digits: np.ndarray) -> None:
    vae = build(DIGITS)
    rows = traversal(vae, digits[:50])
    assert rows.shape == (4, COLUMNS, 1, 8, 8)  # as many rows as there are latents
    assert all((row[0] - row[-1]).abs().max() > 0 for row in rows)


def test_large_images_are_computed_in_batches_with_the_same_result(tmp_path: Path) -> None:
    config = VAEConfig(image_shape=(1, 128, 128), latent_shape=(3,), channels=(2, 2, 2), blocks=(0, 0, 0))
    vae, images = build(config), np.random.default_rng(0).integers(0, 256, (150, 1, 128, 128), np.uint8)
    counts: list[int] = []
    vae.encoder.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    vae.decoder.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    write_plots(tmp_path, vae, images)
    assert max(counts) * config.dimensions <= MAX_PIXELS_PER_PASS < len(images) * config.dimensions
    x = torch.tensor(images[:48]) / 255
    means = vae.likelihood(vae.posterior(x).mean).mean.detach()
    torch.testing.assert_close(reconstructions(vae, images)[1::2].flatten(0, 1), means)


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    config = VAEConfig(image_shape=(3, 600, 300), latent_shape=(2,), stride=2, channels=(1, 1, 1), blocks=(0, 0, 0))
    images = np.zeros((13, 3, 600, 300), np.uint8)
    images[..., 300:, :] = 255
    write_plots(tmp_path, build(config), images)
    for name, rows in (("samples", ROWS), ("traversal", 2)):
        assert pixels(tmp_path / f"{name}.png").shape[:2] == (rows * MAX_IMAGE_SIDE, COLUMNS * MAX_IMAGE_SIDE // 2)
    pairs = pixels(tmp_path / "reconstructions.png")
    assert pairs.shape[:2] == (2 * MAX_IMAGE_SIDE, LABEL_WIDTH + COLUMNS * MAX_IMAGE_SIDE // 2)
    original = pairs[:MAX_IMAGE_SIDE, LABEL_WIDTH : LABEL_WIDTH + MAX_IMAGE_SIDE // 2, 0]
    assert (original[: MAX_IMAGE_SIDE // 2].max(), original[MAX_IMAGE_SIDE // 2 :].min()) == (0, 255)


def test_the_learning_curve_shows_bound_and_terms_of_every_epoch() -> None:
    bound, reconstruction, kl = learning_curve(RECORDS).axes
    assert [line.get_label() for line in bound.lines] == ["ELBO, training", "ELBO, held out, averaged weights"]
    assert [line.get_label() for line in (*reconstruction.lines, *kl.lines)] == ["reconstruction", "KL"]
    assert list(bound.lines[0].get_ydata()) == [record.elbo for record in RECORDS]


def test_the_learning_curve_shows_the_bound_that_is_climbed() -> None:
    climbed = [replace(record, objective=-99.0, objective_validation=-98.0) for record in RECORDS]
    bound = learning_curve(climbed).axes[0]
    assert [next(iter(line.get_ydata())) for line in bound.lines[2:]] == [-99.0, -98.0]
    assert [line.get_label() for line in bound.lines[2:]] == [
        "objective, training",
        "objective, held out, averaged weights",
    ]


def test_a_learning_curve_can_have_one_epoch(tmp_path: Path) -> None:
    learning_curve(RECORDS[:1]).savefig(tmp_path / "curve.png")
