"""Tests of the architecture config: validation, JSON, shapes of the grids."""

import json
import re
from dataclasses import FrozenInstanceError, fields
from itertools import product
from math import prod

import pytest
from hypothesis import given

from model.config import ConfigError, VAEConfig
from model.likelihoods import FAMILIES
from tests.support.configs import configs

PLAIN = {"image_shape": (1, 8, 8), "latent_shape": (4,)}
DEEP = {**PLAIN, "channels": (2, 2), "blocks": (0, 0)}


COUNTS = "integers between 1 and 65536"
NOT_COUNTS = [(0,), (-1,), (2.0,), (True,), ("2",), (None,), (65_537,), [1, 8, 8], 8, "188", None]
UNUSABLE = [
    *product(["image_shape", "latent_shape", "channels", "hidden"], NOT_COUNTS, [COUNTS]),
    *product(["blocks"], [(-1, 0), (0, 0.0), (0, False), [0, 0], 0, None], ["integers between 0 and 65536"]),
    *product(["blocks"], [(), (0,), (0, 0, 0)], ["as many as channels"]),
    *product(["image_shape"], [(), (8, 8), (1, 1, 8, 8)], ["3 integers (C, H, W)"]),
    *product(["image_shape"], [(2, 8, 8), (4, 8, 8)], ["1 or 3 channels"]),
    ("image_shape", (1, 2**13, 2**13 + 1), f"at most {2**26} values"),
    *product(["latent_shape"], [(), (2, 8), (2, 1, 8, 8)], ["1 or 3 integers"]),
    *product(["latent_shape"], [(65_536,) * 3, (1, 2**13, 2**13 + 1)], [f"at most {2**26} values"]),
    *product(["latent_shape"], [(2, 8, 8), (2, 4, 3)], ["a latent on the coarsest grid (4, 4) where hidden is empty"]),
    *product(["stride"], [0, 3, -1, "2", None, (1,)], ["1 or 2"]),
    *product(["likelihood"], ["", "Bernoulli", "poisson", None, 1], [", ".join(FAMILIES)]),
    *product(["posterior"], ["", "Bounded", None, 1], ["bounded or clamped"]),
    *product(["scale"], [0, 9e-4, 1e-300, -0.1, 10.1, float("nan"), float("inf"), "1", None], ["0.001 <= scale <= 10"]),
]


@pytest.mark.parametrize(("field", "value", "expected"), UNUSABLE, ids=[f"{row[0]}={row[1]!r}" for row in UNUSABLE])
def test_an_invalid_value_is_refused_with_field_rule_and_value(field, value, expected):
    message = f"^{field}: expected .*{re.escape(expected)}.*, got {re.escape(repr(value))}$"
    with pytest.raises(ConfigError, match=message):
        VAEConfig(**{**DEEP, field: value})


def test_feature_maps_that_are_too_large_are_refused_with_their_shape():
    wide = {"image_shape": (1, 64, 64), "latent_shape": (4,), "stride": 1, "channels": (2**14,), "blocks": (0,)}
    assert VAEConfig(**wide).features == (2**14, 64, 64)
    with pytest.raises(ConfigError, match=rf"^channels: expected at most {2**26} values .*, got \(16385, 64, 64\)$"):
        VAEConfig(**{**wide, "channels": (2**14 + 1,)})


def test_more_layers_than_a_network_can_use_are_refused():
    with pytest.raises(ConfigError, match=r"^blocks: expected at most 1024 layers in all, got 20001$"):
        VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), channels=(8,), blocks=(20_000,))


@pytest.mark.parametrize(("field", "value"), [("stride", True), ("stride", 1.0), ("scale", True), ("likelihood", {})])
def test_a_value_of_another_type_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"^{field}: expected .*, got {re.escape(repr(value))}$"):
        VAEConfig(**{**DEEP, field: value})


def test_every_field_is_tested_with_invalid_values():
    assert {row[0] for row in UNUSABLE} == {field.name for field in fields(VAEConfig)}


@given(configs())
def test_a_config_is_rebuilt_from_its_json(config):
    written = json.dumps(config.as_dict())
    assert VAEConfig.from_dict(json.loads(written)) == config
    assert VAEConfig.from_dict(config.as_dict()) == config
    assert hash(VAEConfig.from_dict(json.loads(written))) == hash(config)


def test_a_config_that_earlier_versions_know_is_written_as_they_wrote_it():
    assert "posterior" not in VAEConfig(**PLAIN).as_dict()
    assert VAEConfig(**PLAIN, posterior="bounded").as_dict()["posterior"] == "bounded"


@pytest.mark.parametrize("field", ["image_shape", "latent_shape"])
def test_a_missing_field_is_named(field):
    with pytest.raises(ConfigError, match=f"^{field} is missing$"):
        VAEConfig.from_dict({name: value for name, value in PLAIN.items() if name != field})


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"^unknown field 'depth'; known are ") as error:
        VAEConfig.from_dict({**PLAIN, "depth": 3})
    assert all(field.name in str(error.value) for field in fields(VAEConfig))


@pytest.mark.parametrize("value", [None, [], "config", 3])
def test_json_that_is_not_an_object_is_refused_with_its_type(value):
    with pytest.raises(ConfigError, match=f"^expected an object of architecture fields, got {type(value).__name__}$"):
        VAEConfig.from_dict(value)


def test_an_invalid_value_in_json_is_refused():
    with pytest.raises(ConfigError, match=r"^channels: expected .*, got \('wide',\)$"):
        VAEConfig.from_dict(json.loads('{"image_shape": [1, 8, 8], "latent_shape": [4], "channels": ["wide"]}'))


def test_the_largest_and_smallest_values_are_valid():
    assert VAEConfig(**{**PLAIN, "image_shape": (1, 2**13, 2**13)}).dimensions == 2**26
    assert VAEConfig(image_shape=(1, 1, 1), latent_shape=(65_536,), hidden=(65_536, 1), scale=10).dimensions == 1
    assert VAEConfig(**PLAIN, scale=0.001).scale == 0.001


def test_a_config_is_immutable():
    config = VAEConfig(**PLAIN)
    with pytest.raises(FrozenInstanceError):
        config.stride = 2


@given(configs())
def test_each_grid_is_half_of_the_previous_one_rounded_up(config):
    height, width = (-(-side // config.stride) for side in config.image_shape[1:])
    for grid in config.grids:
        assert grid == (height, width)
        height, width = -(-height // 2), -(-width // 2)
    assert len(config.grids) == len(config.channels)
    assert config.dimensions == prod(config.image_shape)
