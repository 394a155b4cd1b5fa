"""What training and evaluation leave in metrics.json beside a model: the fields on which cards and commands rely."""

from typing import Any

NUMBER = int | float
ANYTHING = object
NAMES = {int: "an integer", str: "text", NUMBER: "a number", NUMBER | None: "a number or null"}
LEVELS = 100

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
    "training": TRAINING,
    "evaluations": [EVALUATION],
    "inputs": {name: {"error": NUMBER, "divergence": NUMBER} for name in ("grey", "threshold", "draw")},
}


def require_usable(history: dict[str, Any]) -> None:
    """Raise a `ValueError` that names the field, what was expected and what came; other fields may be anything."""
    _require_tellable(history, LEVELS)
    for name, record in RECORDS.items():
        if name in history:
            require(name, record, history[name])


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


def _require_tellable(value: Any, levels: int) -> None:
    """What any writer of JSON can pass on, as the service does."""
    if not levels:
        raise ValueError(f"expected at most {LEVELS} levels, got more")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("expected integers of 64 bits, got a larger one")
    if isinstance(value, str):
        value.encode()
    for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_tellable(inner, levels - 1)
