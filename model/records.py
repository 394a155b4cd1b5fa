"""What training and evaluation leave in metrics.json beside a model: the fields on which cards and commands rely."""

from typing import Any

NUMBER = int | float
ANYTHING = object
NAMES = {int: "an integer", str: "text", NUMBER: "a number", NUMBER | None: "a number or null"}
LEVELS = 100
VERSION = 1
"""The version of metrics.json that is written; a file without one is of this version."""

EPOCH = {
    "epoch": int,
    "validation": NUMBER | None,
    **dict.fromkeys(("elbo", "reconstruction", "kl", "learning_rate", "images_per_second", "seconds"), NUMBER),
}
EVALUATION = {
    "standard_error": NUMBER | None,
    **dict.fromkeys(("elbo", "reconstruction", "kl", "log_likelihood", "bits_per_dim", "seconds"), NUMBER),
    **dict.fromkeys(("images", "samples", "active_units", "units", "seed"), int),
    **dict.fromkeys(("binarize", "precision", "split", "device", "command"), str),
}
TRAINING = {
    "options": {"binarize": str, "holdout": int},
    "data": {"source": str, "train": int, "digest": str},
    "epochs": [EPOCH],
    "seconds": NUMBER,
    **dict.fromkeys(("device", "torch", "command"), str),
}
RECORDS = {
    "version": int,
    "weights": str,
    "training": TRAINING,
    "evaluations": [EVALUATION],
    "inputs": {name: {"error": NUMBER, "divergence": NUMBER} for name in ("grey", "threshold", "draw")},
}


def usable_records(history: Any) -> tuple[dict[str, Any], list[str]]:
    """The entries of metrics.json that cards and commands can rely on, and one sentence for each that is left out.

    An entry that lacks a field, or holds another type, is left out; of the evaluations, that one alone. Entries of
    other names are kept if JSON can hold them.
    """
    if not isinstance(history, dict):
        return {}, [f"expected an object, got {type(history).__name__}; the file is left out"]
    kept: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in history.items():
        if name == "evaluations" and isinstance(value, list):
            each = enumerate(value)
            kept[name] = [item for number, item in each if _is_usable(f"{name}[{number}]", EVALUATION, item, faults)]
        elif _is_usable(name, RECORDS.get(name, ANYTHING), value, faults):
            kept[name] = value
    if (version := kept.get("version", VERSION)) != VERSION:
        faults.append(f"version: expected {VERSION}, got {version}: what this release knows of it is read")
    return kept, faults


def _is_usable(where: str, expected: Any, value: Any, faults: list[str]) -> bool:
    """Whether an entry has the form that is expected; if not, the reason is added to `faults`."""
    try:
        _require_tellable(where, {where: value}, LEVELS)
        require(where, expected, value)
    except ValueError as error:
        faults.append(f"{error}; the entry is left out")
        return False
    return True


def require(where: str, expected: Any, value: Any) -> None:
    """Raise a `ValueError` unless `value` has the form of `expected`, such as `EPOCH`; it begins with `where`."""
    if isinstance(expected, dict):
        _require_type(where, dict, "an object", value)
        for name, inner in expected.items():
            if name not in value:
                raise ValueError(f"{where}.{name} is missing")
            require(f"{where}.{name}", inner, value[name])
    elif isinstance(expected, list):
        _require_type(where, list, "a list", value)
        for number, item in enumerate(value):
            require(f"{where}[{number}]", expected[0], item)
    elif expected is not ANYTHING:
        _require_type(where, expected, NAMES[expected], value)


def _require_type(where: str, kind: Any, name: str, value: Any) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}: expected {name}, got {type(value).__name__}")  # noqa: TRY004  # it is the file's fault


def _require_tellable(where: str, value: Any, levels: int) -> None:
    """Refuse what a writer of JSON, such as the service's, cannot pass on."""
    if not levels:
        raise ValueError(f"{where}: expected at most {LEVELS} levels, got more")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{where}: expected integers of 64 bits, got a larger one")
    if isinstance(value, str):
        _require_unicode(value)
    for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_tellable(where, inner, levels - 1)


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"expected text of Unicode, got {text[:50]!a}") from None
