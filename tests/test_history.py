"""A history that cards and commands can rely on is kept as it is; one that they cannot is refused by its field."""

import json
import re
from copy import deepcopy

import pytest

from model.checkpoint import DEFAULT, METRICS
from model.history import require_usable

WHOLE = json.loads((DEFAULT / METRICS).read_text())


@pytest.mark.parametrize("history", [{}, WHOLE, {"evaluations": []}, {"notes": {"anything": [None, -1, "else"]}}])
def test_what_is_whole_or_nobodys_is_usable(history):
    require_usable(history)


def test_more_than_is_relied_on_may_be_told():
    history = deepcopy(WHOLE)
    history["training"]["options"]["patience"] = None
    require_usable(history)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("training", [], "training: expected an object, got list"),
        ("training options", 5, "training.options: expected an object, got int"),
        ("training options binarize", None, "training.options.binarize: expected text, got NoneType"),
        ("training options holdout", True, "training.options.holdout: expected an integer, got bool"),
        ("training seconds", "3", "training.seconds: expected a number, got str"),
        ("training epochs", {}, "training.epochs: expected a list, got dict"),
        ("training epochs 1", 3, "training.epochs[1]: expected an object, got int"),
        ("training epochs 1 validation", "", "training.epochs[1].validation: expected a number or null, got str"),
        ("evaluations", 3, "evaluations: expected a list, got int"),
        ("evaluations 0", 3, "evaluations[0]: expected an object, got int"),
        ("evaluations 0 samples", 1.5, "evaluations[0].samples: expected an integer, got float"),
        ("inputs", {"grey": 3}, "inputs.grey: expected an object, got int"),
        ("inputs draw error", None, "inputs.draw.error: expected a number, got NoneType"),
    ],
)
def test_a_field_of_another_type_is_refused_by_its_name(path, value, expected):
    history = deepcopy(WHOLE)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split()]
    place = history
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        require_usable(history)


@pytest.mark.parametrize(
    ("record", "field"), [("training", "data"), ("training", "epochs"), ("evaluations", "split"), ("inputs", "grey")]
)
def test_a_record_that_lacks_a_field_is_refused_by_its_name(record, field):
    history = deepcopy(WHOLE)
    one = history[record][0] if record == "evaluations" else history[record]
    del one[field]
    with pytest.raises(ValueError, match=rf"^{record}(\[0\])?\.{field} is missing$"):
        require_usable(history)


def _deep(levels):
    return {"a": _deep(levels - 1)} if levels else []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (_deep(200), "expected at most 100 levels"),
        ([2**64], "expected integers of 64 bits"),
        ("\ud800", "surrogates not allowed"),
    ],
)
def test_what_could_not_be_told_over_http_is_refused(value, expected):
    with pytest.raises(ValueError, match=expected):
        require_usable({"notes": value})
