"""JSON is read up to the values and names that a request can have, and refused beyond them before it is read."""

import pytest

from app.api.schemas import Images, LatentsIn
from app.errors import BadRequest, ContentTooLarge, UnprocessableContent
from app.validation import parsed


def test_as_many_values_and_names_as_are_allowed_are_read():
    body = b'{"images": ["a", "b", "c"]}'
    assert parsed(Images, body, values=2, names=1).images == ["a", "b", "c"]
    with pytest.raises(ContentTooLarge, match="the body holds more than the 1 values"):
        parsed(Images, body, values=1, names=1)
    with pytest.raises(ContentTooLarge, match="the body holds more than the 0 names"):
        parsed(Images, body, values=2, names=0)


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
        parsed(Images, body, values=9, names=9)


def test_an_unknown_field_is_named_beside_those_of_the_object_that_it_stands_in():
    body = b'{"latents": [[1, 2], {"mean": [1, 2], "logvar": [1, 2], "posterior": 3}]}'
    with pytest.raises(UnprocessableContent) as refused:
        parsed(LatentsIn, body, values=99, names=99)
    assert refused.value.detail == "latents[1]: unknown field 'posterior'; known are mean, logvar, z"
