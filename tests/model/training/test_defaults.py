"""Tests of defaults that follow from the images."""

import numpy as np
import pytest

from model.config import VAEConfig
from model.training.defaults import (
    Choice,
    ImageStatistics,
    choose_architecture,
    choose_data_options,
    choose_length,
    choose_patience,
    choose_precision,
    choose_schedules,
    steps_per_epoch,
)


def values(choices: list[Choice]) -> dict[str, object]:
    assert all(choice.reason for choice in choices)
    return {choice.option: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("levels", "channels", "likelihood"),
    [
        ([0, 255], 1, "bernoulli"),
        ([0, 0, 0, 255, 230], 1, "bernoulli"),
        (range(256), 1, "logistic-shared"),
        ([0, 255], 3, "logistic-shared"),
    ],
)
def test_bernoulli_is_chosen_for_grey_images_that_are_nearly_binary(levels, channels, likelihood) -> None:
    images = np.random.default_rng(0).choice(np.array([*levels], np.uint8), (50, channels, 8, 8))
    assert values(choose_architecture(ImageStatistics.of(images)))["likelihood"] == likelihood


def test_images_of_one_colour_have_a_likelihood() -> None:
    images = np.zeros((3, 1, 8, 8), np.uint8)
    assert values(choose_architecture(ImageStatistics.of(images)))["likelihood"] == "logistic-shared"


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 8, 8), (1, 28, 28), (3, 40, 64), (3, 64, 64), (3, 128, 128), (1, 200, 9)]
)
def test_the_networks_of_every_size_end_in_a_small_grid(shape: tuple[int, int, int]) -> None:
    chosen = values(choose_architecture(ImageStatistics(shape, 1000, 1.0)))
    numbers = {
        name: tuple(int(number) for number in str(chosen[name]).split(",") if number)
        for name in ("latent", "channels", "blocks", "hidden")
    }
    config = VAEConfig(
        image_shape=shape,
        latent_shape=numbers["latent"],
        stride=chosen["stride"],
        channels=numbers["channels"],
        blocks=numbers["blocks"],
        hidden=numbers["hidden"],
        likelihood=chosen["likelihood"],
    )
    assert max(config.features[1:]) <= 8
    assert config.pointwise == (max(shape[1:]) > 32)


def test_few_images_get_a_finer_latent() -> None:
    many, few = (values(choose_architecture(ImageStatistics((3, 64, 64), images, 1.0))) for images in (300, 299))
    assert (many["latent"], few["latent"]) == ("16,4,4", "8,8,8")
    assert (many["channels"], few["channels"]) == ("32,64,128,128", "32,64,128")


def test_a_vector_is_the_latent_of_networks_that_are_given() -> None:
    chosen = values(choose_architecture(ImageStatistics((3, 64, 64), 100, 1.0), with_networks=False))
    assert chosen == {"likelihood": "logistic-shared", "init": "data", "latent": "128"}


def test_lower_precision_is_chosen_where_it_is_faster() -> None:
    large, small = (ImageStatistics((3, side, side), 100, 1.0) for side in (64, 28))
    assert values(choose_precision(large, has_amx=True)) == {"precision": "bfloat16"}
    assert choose_precision(large, has_amx=False) == choose_precision(small, has_amx=True) == []


def test_images_are_held_out_where_the_data_have_no_split() -> None:
    assert values(choose_data_options(60_000, has_test=True, has_validation=False)) == {
        "test_share": 0.0,
        "holdout": 1000,
    }
    assert values(choose_data_options(600, has_test=False, has_validation=True)) == {"test_share": 0.1, "holdout": 0}
    for images in range(1, 200):
        assert values(choose_data_options(images, has_test=False, has_validation=False))["holdout"] < max(
            1, 0.9 * images
        )


@pytest.mark.parametrize("images", [1, 50, 600, 60_000, 10**6])
def test_steps_rise_with_the_number_of_images(images: int) -> None:
    chosen = values(choose_length(images, {}))
    steps = chosen["epochs"] * steps_per_epoch(images, chosen["batch_size"])
    assert 16 <= chosen["batch_size"] <= 128
    assert 1500 <= steps <= 30_000
    assert values(choose_length(images, {"batch_size": 7}))["batch_size"] == 7


def test_a_run_ends_early_if_there_are_images_for_validation() -> None:
    assert values(choose_patience(500, 10_000, 10)) == {"patience": 100}
    assert values(choose_patience(5, 1000, 10)) == {"patience": 20}
    assert values(choose_patience(90, 270, 10)) == {"patience": 134}
    assert choose_patience(500, 10_000, 0) == []


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (5, 60), (12, 60), (50, 2000), (600, 10**6)])
def test_warm_ups_are_at_most_a_tenth_of_the_run(epochs: int, steps: int) -> None:
    chosen = values(choose_schedules(epochs, steps))
    assert chosen["warmup"] <= steps / 10
    assert chosen["kl_warmup"] <= epochs / 10
    assert 0.9 <= chosen["ema"] <= 0.999
