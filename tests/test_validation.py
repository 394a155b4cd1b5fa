"""Validation of client data: limits before parsing, and errors with location, expectation and value."""

import pytest
from pydantic import BaseModel, Field, ValidationError

from app.api.schemas import Images, LatentsIn
from app.errors import BadRequest, ContentTooLarge, UnprocessableContent
from app.validation import MAX_VALUES, expectation, json_path, parse_json


class Inner(BaseModel, extra="forbid"):
    mean: list[float]


class Outer(BaseModel):
    latents: list[Inner]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (7, "latents: expected a valid array"),
        ([7], "latents[0]: expected an object"),
        ([{"mean": [1, 2, "x"]}], "latents[0].mean[2]: expected a valid number"),
        ([{"mean": [1], "man": 0}], "latents[0].man: extra inputs are not permitted"),
        ([{}], "latents[0].mean: expected a value"),
    ],
)
def test_an_error_of_pydantic_is_described_with_its_location(value, sentence):
    with pytest.raises(ValidationError) as invalid:
        Outer(latents=value)
    (first,) = invalid.value.errors()
    assert f"{json_path(first['loc'])}: {expectation(first)}" == sentence


def test_a_body_up_to_the_limits_of_values_and_names_is_parsed():
    body = b'{"images": ["a", "b", "c"]}'
    assert parse_json(Images, body, max_values=2, max_names=1, max_arrays=1).images == ["a", "b", "c"]
    with pytest.raises(ContentTooLarge, match="the body holds more than the 1 values"):
        parse_json(Images, body, max_values=1, max_names=1, max_arrays=1)
    with pytest.raises(ContentTooLarge, match="the body holds more than the 0 names"):
        parse_json(Images, body, max_values=2, max_names=0, max_arrays=1)
    with pytest.raises(ContentTooLarge, match="the body holds more than the 0 arrays"):
        parse_json(Images, body, max_values=2, max_names=1, max_arrays=0)


def test_a_body_has_a_fixed_limit_of_values_besides_those_of_a_request():
    body = b'{"latents": [[%s0]]}' % (b"0," * (MAX_VALUES + 1))
    with pytest.raises(ContentTooLarge, match=f"the body holds more than the {MAX_VALUES} values"):
        parse_json(LatentsIn, body, max_values=10**9, max_names=9, max_arrays=9)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        ("NaN", "NaN at line 1 column 32"),
        ("Infinity", "Infinity at line 1 column 32"),
        ("-Infinity", "-Infinity at line 1 column 33"),
        ("1e400", "a number that no float64 can hold at line 1 column 32"),
        ("7" * 4000, "a number that no float64 can hold at line 1 column 32"),
    ],
)
def test_a_number_that_is_not_finite_is_reported_with_its_position(number, sentence):
    body = f'{{"model": "é", "latents": [[1, {number}]]}}'
    with pytest.raises(UnprocessableContent) as refused:
        parse_json(LatentsIn, body.encode(), max_values=9, max_names=9, max_arrays=9)
    assert refused.value.detail == f"the body: expected finite numbers, got {sentence}"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"image": ["abc"]}', "the body: unknown field 'image'; known are images"),
        (b"{}", "images: missing; expected an array of PNG, JPEG, WEBP, GIF, TIFF, AVIF or BMP files in base64"),
    ],
)
def test_an_unknown_field_is_reported_instead_of_a_missing_one(body, sentence):
    with pytest.raises(UnprocessableContent) as refused:
        parse_json(Images, body, max_values=9, max_names=9, max_arrays=9)
    assert refused.value.detail == sentence


def test_a_missing_field_of_an_object_in_the_body_is_reported_with_its_description():
    with pytest.raises(UnprocessableContent) as refused:
        parse_json(LatentsIn, b'{"latents": [{"logvar": [1]}]}', max_values=9, max_names=9, max_arrays=9)
    assert refused.value.detail == "latents[0].mean: missing; expected the numbers of a latent, or their base64"


class Pair(BaseModel):
    pair: list[int] = Field(min_length=2, max_length=2)


@pytest.mark.parametrize(
    ("schema", "body", "sentence"),
    [
        (Images, b'{"images": []}', "images: expected at least 1 item, got 0"),
        (Pair, b'{"pair": [1]}', "pair: expected at least 2 items, got 1"),
        (Pair, b'{"pair": [1, 2, 3]}', "pair: expected at most 2 items, got 3"),
    ],
)
def test_an_array_of_another_length_is_reported_with_its_length(schema, body, sentence):
    with pytest.raises(UnprocessableContent) as refused:
        parse_json(schema, body, max_values=9, max_names=9, max_arrays=9)
    assert refused.value.detail == sentence


def test_an_unknown_field_of_a_posterior_is_reported():
    body = b'{"latents": [{"meen": [1], "logvar": [1]}]}'
    with pytest.raises(UnprocessableContent) as refused:
        parse_json(LatentsIn, body, max_values=9, max_names=9, max_arrays=9)
    assert refused.value.detail == "latents[0]: unknown field 'meen'; known are mean, logvar, z"


@pytest.mark.parametrize(
    ("body", "error", "sentence"),
    [
        (b"", BadRequest, "the body is not JSON"),
        (b'{"images": [7]}', UnprocessableContent, r"images\[0\]: expected a valid string, got 7"),
        (
            b'{"hunter2": 7, "images": ["a"]}',
            UnprocessableContent,
            "the body: unknown field 'hunter2'; known are images",
        ),
    ],
)
def test_an_invalid_body_is_refused_with_the_location_of_the_error(body, error, sentence):
    with pytest.raises(error, match=sentence):
        parse_json(Images, body, max_values=9, max_names=9, max_arrays=9)


def test_an_unknown_field_is_reported_with_the_known_fields_of_its_object():
    body = b'{"latents": [[1, 2], {"mean": [1, 2], "logvar": [1, 2], "posterior": 3}]}'
    with pytest.raises(UnprocessableContent) as refused:
        parse_json(LatentsIn, body, max_values=99, max_names=99, max_arrays=99)
    assert refused.value.detail == "latents[1]: unknown field 'posterior'; known are mean, logvar, z"
