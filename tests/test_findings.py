"""What is wrong is told in this service's words, and where it is."""

import pytest
from pydantic import BaseModel, ValidationError

from app.validation import expectation, place


class Inner(BaseModel, extra="forbid"):
    mean: list[float]


class Outer(BaseModel):
    latents: list[Inner]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7, "latents: expected a valid array"),
        ([7], "latents[0]: expected an object"),
        ([{"mean": [1, 2, "x"]}], "latents[0].mean[2]: expected a valid number"),
        ([{"mean": [1], "man": 0}], "latents[0].man: unknown field"),
        ([{}], "latents[0].mean: field required"),
    ],
)
def test_a_finding_is_told_with_its_place(value, told):
    with pytest.raises(ValidationError) as found:
        Outer(latents=value)
    (first,) = found.value.errors()
    assert f"{place(first['loc'])}: {expectation(first['msg'])}" == told
