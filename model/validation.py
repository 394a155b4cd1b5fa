"""Validation of named values: one function that all configurations share."""

MAX_NUMBER = 1e30
"""Largest absolute number of a config. Its products with pixels and latents are finite in float32."""

MAX_SHOWN = 100
"""Characters of an invalid value that an error repeats."""


def require(error: type[Exception], name: str, valid: bool, expected: str, got: object) -> None:
    """Raise `error` with the name of a value, what was expected and what came, unless it is valid."""
    if not valid:
        raise error(f"{name}: expected {expected}, got {_shown(got)}")


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number of at most `MAX_NUMBER`."""
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER  # type: ignore[arg-type]  # narrowed by its type


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
