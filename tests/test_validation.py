"""JSON is read up to the values and names that a request can have, and refused beyond them before it is read."""

import pytest

from app.api.schemas import Images, LatentsIn
from app.errors import BadRequest, ContentTooLarge, UnprocessableContent
from app.validation import MAX_VALUES, parsed


def test_as_many_values_and_names_as_are_allowed_are_read():
    body = b'{"images": ["a", "b", "c"]}'
    assert parsed(Images, body, values=2, names=1, arrays=1).images == ["a", "b", "c"]
    with pytest.raises(ContentTooLarge, match="the body holds more than the 1 values"):
        parsed(Images, body, values=1, names=1, arrays=1)
    with pytest.raises(ContentTooLarge, match="the body holds more than the 0 names"):
        parsed(Images, body, values=2, names=0, arrays=1)
    with pytest.raises(ContentTooLarge, match="the body holds more than the 0 arrays"):
        parsed(Images, body, values=2, names=1, arrays=0)


def test_there_is_a_limit_of_values_whatever_a_request_may_have():
    body = b'{"latents": [[%s0]]}' % (b"0," * (MAX_VALUES + 1))
    with pytest.raises(ContentTooLarge, match=f"the body holds more than the {MAX_VALUES} values"):
        parsed(LatentsIn, body, values=10**9, names=9, arrays=9)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("NaN", "NaN at line 1 column 32"),
        ("Infinity", "Infinity at line 1 column 32"),
        ("-Infinity", "-Infinity at line 1 column 33"),
        ("1e400", "a number that no float64 can hold at line 1 column 32"),
        ("7" * 4000, "a number that no float64 can hold at line 1 column 32"),
    ],
)
def test_a_number_that_is_not_finite_is_told_with_its_place(number, told):
    body = f'{{"model": "é", "latents": [[1, {number}]]}}'
    with pytest.raises(UnprocessableContent) as refused:
        parsed(LatentsIn, body.encode(), values=9, names=9, arrays=9)
    assert refused.value.detail == f"the body: expected finite numbers, got {told}"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"image": ["abc"]}', "the body: unknown field 'image'; known are images"),
        (b"{}", "images: field required"),
    ],
)
def test_a_mistyped_field_is_named_rather_than_the_missing_one(body, told):
    with pytest.raises(UnprocessableContent) as refused:
        parsed(Images, body, values=9, names=9, arrays=9)
    assert refused.value.detail == told


def test_a_mistyped_field_of_a_posterior_is_named():
    body = b'{"latents": [{"meen": [1], "logvar": [1]}]}'
    with pytest.raises(UnprocessableContent) as refused:
        parsed(LatentsIn, body, values=9, names=9, arrays=9)
    assert refused.value.detail == "latents[0]: unknown field 'meen'; known are mean, logvar, z"


@pytest.mark.parametrize(
    ("body", "kind", "told"),
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
def test_what_cannot_be_used_is_told_with_its_place(body, kind, told):
    with pytest.raises(kind, match=told):
        parsed(Images, body, values=9, names=9, arrays=9)


def test_an_unknown_field_is_named_beside_those_of_the_object_that_it_stands_in():
    body = b'{"latents": [[1, 2], {"mean": [1, 2], "logvar": [1, 2], "posterior": 3}]}'
    with pytest.raises(UnprocessableContent) as refused:
        parsed(LatentsIn, body, values=99, names=99, arrays=99)
    assert refused.value.detail == "latents[1]: unknown field 'posterior'; known are mean, logvar, z"
