"""Typicality: uniform on unseen images of the same kind, small on others, and refused where the file is damaged."""

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.typicality import MAX_NEIGHBOURS, Typicality, gaussianised

NAMES = ("kl", "squared_error", "norm")


def draw(count, seed, shift=0.0):
    """Correlated statistics with a skewed one, and codes [N, 2] of which one follows from them."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((count, 3)) @ [[1, 0.8, 0], [0, 0.6, 0], [0, 0, 1]]
    codes = np.stack([values[:, 0] + 0.1 * rng.standard_normal(count), rng.standard_normal(count)], 1)
    values[:, 2] = np.exp(values[:, 2])
    return (values + shift).astype(np.float32), codes.astype(np.float32)


def fitted(count=1200, seed=0):
    values, codes = draw(count, seed)
    chosen = np.random.default_rng(seed).random(count) < 0.5
    return Typicality.fit("abc", (1, 4, 4), NAMES, values, codes, chosen, "images of a test")


@pytest.fixture(scope="module")
def typicality():
    return fitted()


def p_values(typicality, values, codes):
    return typicality.p_values(typicality.scores(values, codes))


def distance_to_uniform(p):
    """The statistic of Kolmogorov and Smirnov."""
    ranked, steps = np.sort(p), np.arange(len(p) + 1) / len(p)
    return max((steps[1:] - ranked).max(), (ranked - steps[:-1]).max())


def test_unseen_images_of_the_same_kind_have_uniform_values(typicality):
    p = p_values(typicality, *draw(1000, 1))
    # 1.95 is the 0.999 quantile of the limit distribution, and both samples are finite.
    assert distance_to_uniform(p) < 1.95 * math.sqrt(1 / 1000 + 1 / len(typicality.ranks))


@pytest.mark.parametrize("count", [60, 200])
def test_few_images_are_calibrated_too(count):
    shares = [np.mean(p_values(fitted(count, seed), *draw(200, 100 + seed)) <= 0.1) for seed in range(8)]
    assert abs(np.mean(shares) - 0.1) < 0.06


def test_too_high_and_too_low_values_are_both_untypical(typicality):
    for shift in (-6.0, 6.0):
        assert p_values(typicality, *draw(50, 2, shift)).max() <= 2 / (1 + len(typicality.ranks))


def test_usual_values_in_an_unusual_combination_are_untypical(typicality):
    values, codes = draw(200, 3)
    mixed = p_values(typicality, np.concatenate([values[:, :1], -values[:, 1:2], values[:, 2:]], 1), codes)
    assert np.median(mixed) < 0.25
    assert np.median(p_values(typicality, values, -codes)) < 0.25


def test_an_image_has_the_same_bits_alone_and_among_others(typicality):
    values, codes = draw(100, 4)
    together = typicality.scores(values, codes)
    alone = [typicality.scores(values[row : row + 1], codes[row : row + 1])[0] for row in range(100)]
    assert np.array_equal(together, alone)


@given(values=arrays(np.float32, (3, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)))
def test_any_finite_statistics_have_a_value_in_the_unit_interval(typicality, values):
    found = p_values(typicality, values, np.full((3, 2), 1e30, np.float32))
    assert ((found > 0) & (found <= 1)).all()


def test_a_statistic_that_is_constant_makes_any_other_value_untypical():
    values, codes = draw(400, 0)
    values[:, 1] = 5
    typicality = Typicality.fit("abc", (1, 4, 4), NAMES, values, codes, np.arange(400) < 200)
    other = values[:20].copy()
    other[:, 1] = 5.1
    assert p_values(typicality, other, codes[:20]).max() < 0.02


def test_gaussianised_statistics_are_normal_within_and_linear_beyond_the_quantiles(typicality):
    values, _ = draw(1000, 5)
    gaussian = gaussianised(values, typicality.knots)
    assert np.abs(gaussian.mean(0)).max() < 0.2
    assert np.abs(gaussian.std(0) - 1).max() < 0.1
    beyond = gaussianised(np.array([[10.0] * 3, [11.0] * 3, [12.0] * 3], np.float32), typicality.knots)
    assert np.allclose(np.diff(beyond[:, 0], n=2), 0, atol=1e-6)


def test_a_calibration_is_the_same_after_it_was_written(typicality):
    again = Typicality.from_dict(json.loads(json.dumps(typicality.as_dict())))
    values, codes = draw(50, 6)
    assert np.array_equal(again.scores(values, codes), typicality.scores(values, codes))
    assert np.array_equal(again.ranks, typicality.ranks)
    assert again.described == "1,200 images of a test"


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 40 different images, got 12"):
        fitted(12)


def array(shape, value=0.0):
    return {"shape": list(shape), "data": base64.b64encode(np.full(shape, value, "<f4").tobytes()).decode()}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("version", 2, "version: expected 1, got 2"),
        ("digest", 7, "digest: expected printable text"),
        ("source", "x" * 2000, "source: expected printable text of at most 1000"),
        ("source", "x\ud800y", "source: expected printable text"),
        ("source", "x\x1b[31m", "source: expected printable text"),
        ("images", 10**4000, "images: expected at least 40"),
        ("image_shape", [1, 10**400, 4], "image_shape: expected C, H, W"),
        ("images", True, "images: expected at least 40"),
        ("images", 3, "images: expected at least 40"),
        ("statistics", ["a"] * 99, "statistics: expected different names"),
        ("statistics", [1, 2, 3], "statistics: expected different names"),
        ("statistics", "abc", "statistics: expected a list"),
        ("image_shape", [1, 0, 4], "image_shape: expected C, H, W"),
        ("image_shape", [1.0, 4, 4], "image_shape: expected C, H, W"),
        ("ranks", None, "ranks: expected an object"),
        ("ranks", array((0,)), "ranks.shape: expected sizes"),
        ("ranks", array((4,), math.nan), "ranks: expected finite"),
        ("ranks", {"shape": [5], "data": "AAAA"}, "ranks: expected float32 numbers of shape"),
        ("ranks", {"shape": [2**62, 2**62], "data": ""}, "ranks: expected float32 numbers of shape"),
        ("ranks", {"shape": [1], "data": "!"}, "ranks: expected float32 numbers"),
        ("ranks", array((2, 2)), "ranks: expected shape"),
        ("knots", array((3, 1)), "knots: expected shape"),
        ("knots", array((2, 9)), "knots: expected shape"),
        ("neighbours", array((2, 3)), "neighbours: expected shape"),
        ("neighbours", array((MAX_NEIGHBOURS + 1, 3)), "neighbours: expected shape"),
        ("whitening", array((4, 5)), "whitening: expected shape"),
        ("centre", array((9,)), "whitening: expected shape"),
        ("scale", array((2, 2)), "scale: expected positive widths"),
    ],
)
def test_a_damaged_calibration_is_refused_by_the_name_of_its_field(typicality, field, value, expected):
    content = typicality.as_dict() | {field: value}
    with pytest.raises(ValueError, match=expected):
        Typicality.from_dict(content)


def test_a_missing_field_and_falling_numbers_are_refused(typicality):
    content = typicality.as_dict()
    del content["centre"]
    with pytest.raises(ValueError, match="centre: expected a value, got none"):
        Typicality.from_dict(content)
    for name in ("ranks", "knots"):
        with pytest.raises(ValueError, match=f"{name}: expected rising numbers"):
            replace(typicality, **{name: getattr(typicality, name)[..., ::-1]})
