"""Tests of reading metrics.json: usable entries become records, others are left out and named."""

import json
from copy import deepcopy

import pytest

from model.checkpoint import DEFAULT, METRICS
from model.records import MAX_EVALUATIONS, MAX_FAULTS, VERSION, Metrics, read_metrics

SHIPPED = json.loads((DEFAULT / METRICS).read_text())


@pytest.mark.parametrize("history", [{}, SHIPPED, {"evaluations": []}, {"notes": {"anything": [None, -1, "else"]}}])
def test_valid_metrics_are_kept_unchanged(history):
    metrics, faults = read_metrics(history)
    assert (metrics.entries, faults) == (history, [])


def test_unknown_fields_are_kept():
    history = deepcopy(SHIPPED)
    history["training"]["options"]["future_option"] = None
    metrics, faults = read_metrics(history)
    assert (metrics.entries, faults) == (history, [])


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
def test_an_entry_with_a_field_of_another_type_is_left_out_with_a_warning(path, value, expected):
    history = deepcopy(SHIPPED)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split()]
    place = history
    for step in steps:
        place = place[step]
    place[last] = value
    metrics, faults = read_metrics(history)
    assert faults == [f"{expected}; the entry is left out"]
    assert metrics.entries == _without(path, history)


@pytest.mark.parametrize(
    ("record", "field"), [("training", "data"), ("training", "epochs"), ("evaluations", "split"), ("inputs", "grey")]
)
def test_an_entry_that_lacks_a_field_is_left_out_with_a_warning(record, field):
    history = deepcopy(SHIPPED)
    one = history[record][0] if record == "evaluations" else history[record]
    del one[field]
    metrics, faults = read_metrics(history)
    where = f"{record}[0]" if record == "evaluations" else record
    assert faults == [f"{where}.{field} is missing; the entry is left out"]
    assert metrics.entries == _without(f"{record} 0", history)


def _without(path, history):
    """Return the history without the entry at a path; for evaluations, without that evaluation."""
    name, number, *_ = [*path.split(), ""]
    if name == "evaluations" and number:
        others = [one for index, one in enumerate(history[name]) if index != int(number)]
        return {**history, name: others}
    return {other: value for other, value in history.items() if other != name}


@pytest.mark.parametrize("version", [0, 2, 99])
def test_known_entries_of_another_version_are_read_with_a_warning(version):
    metrics, faults = read_metrics(SHIPPED | {"version": version})
    assert metrics.entries == SHIPPED | {"version": version}
    assert faults == [f"version: expected {VERSION}, got {version}; the entries that this release knows are read"]


def test_of_many_entries_that_are_left_out_the_first_are_named():
    _, faults = read_metrics({f"entry{number}": 2**64 for number in range(1000)} | {"version": 2})
    assert faults[0] == "entry0: expected integers of 64 bits, got a larger one; the entry is left out"
    assert faults[-2] == f"{1000 - MAX_FAULTS} more entries are left out"
    assert len(faults) == MAX_FAULTS + 2


def test_more_evaluations_than_a_record_has_are_left_out():
    metrics, faults = read_metrics({"evaluations": [{}] * (MAX_EVALUATIONS + 1)})
    assert metrics == Metrics()
    assert faults == ["evaluations: expected at most 10,000, got 10,001; the entry is left out"]


@pytest.mark.parametrize("history", [None, 3, [], "text"])
def test_metrics_that_are_not_an_object_are_left_out(history):
    metrics, (fault,) = read_metrics(history)
    assert metrics == Metrics()
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
def test_values_that_json_writers_cannot_write_are_left_out(value, expected):
    metrics, (fault,) = read_metrics(SHIPPED | {"notes": value})
    assert metrics.entries == SHIPPED
    assert fault.startswith(expected)
