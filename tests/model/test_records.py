"""Entries of metrics.json that cards and commands can rely on are kept as they are; others are left out and named."""

import json
from copy import deepcopy

import pytest

from model.checkpoint import DEFAULT, METRICS
from model.records import VERSION, usable_records

WHOLE = json.loads((DEFAULT / METRICS).read_text())


@pytest.mark.parametrize("history", [{}, WHOLE, {"evaluations": []}, {"notes": {"anything": [None, -1, "else"]}}])
def test_a_whole_history_is_kept_as_it_is(history):
    assert usable_records(history) == (history, [])


def test_an_entry_may_have_more_fields_than_are_relied_on():
    history = deepcopy(WHOLE)
    history["training"]["options"]["patience"] = None
    assert usable_records(history) == (history, [])


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
def test_an_entry_with_a_field_of_another_type_is_left_out_and_the_field_is_named(path, value, expected):
    history = deepcopy(WHOLE)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split()]
    place = history
    for step in steps:
        place = place[step]
    place[last] = value
    kept, faults = usable_records(history)
    assert faults == [f"{expected}; the entry is left out"]
    assert kept == _without(path, history)


@pytest.mark.parametrize(
    ("record", "field"), [("training", "data"), ("training", "epochs"), ("evaluations", "split"), ("inputs", "grey")]
)
def test_an_entry_that_lacks_a_field_is_left_out_and_the_field_is_named(record, field):
    history = deepcopy(WHOLE)
    one = history[record][0] if record == "evaluations" else history[record]
    del one[field]
    kept, faults = usable_records(history)
    where = f"{record}[0]" if record == "evaluations" else record
    assert faults == [f"{where}.{field} is missing; the entry is left out"]
    assert kept == _without(f"{record} 0", history)


def _without(path, history):
    """The history without the entry that a path leads into; of the evaluations, without that one."""
    name, number, *_ = [*path.split(), ""]
    if name == "evaluations" and number:
        others = [one for index, one in enumerate(history[name]) if index != int(number)]
        return {**history, name: others}
    return {other: value for other, value in history.items() if other != name}


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_named_and_what_is_known_of_it_is_kept(version):
    kept, faults = usable_records(WHOLE | {"version": version})
    assert kept == WHOLE | {"version": version}
    assert faults == [f"version: expected {VERSION}, got {version}: what this release knows of it is read"]


@pytest.mark.parametrize("history", [None, 3, [], "text"])
def test_a_history_that_is_no_object_is_left_out(history):
    kept, (fault,) = usable_records(history)
    assert kept == {}
    assert fault.startswith("expected an object, got ")


def _deep(levels):
    return {"a": _deep(levels - 1)} if levels else []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (_deep(200), "notes: expected at most 100 levels"),
        ([2**64], "notes: expected integers of 64 bits"),
        ("\ud800", "expected text of Unicode"),
        ({"\ud800": 1}, "expected text of Unicode"),
    ],
)
def test_what_could_not_be_told_over_http_is_left_out(value, expected):
    kept, (fault,) = usable_records(WHOLE | {"notes": value})
    assert kept == WHOLE
    assert fault.startswith(expected)
