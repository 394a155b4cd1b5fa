"""Validation of named values: one function that all configurations share."""


def require(error: type[Exception], name: str, valid: bool, expected: str, got: object) -> None:
    """Raise `error` with the name of a value, what was expected and what came, unless it is valid."""
    if not valid:
        raise error(f"{name}: expected {expected}, got {got!r}")
