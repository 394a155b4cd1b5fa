"""What pydantic finds wrong, in this service's words: what was expected, what came, and no name of a library's."""

import re
from collections.abc import Sequence
from typing import Any

LONGEST = 100
"""Characters of a client's text that an error repeats."""

_WORDS = (
    (r"^Value error, ", ""),
    (r"^Input should be (greater|less) than", r"expected a number \1 than"),
    (r"^Input should be ", "expected "),
    (r"a valid dictionary or instance of \w+$", "an object"),
    (
        r"^(?:List|Tuple) should have at least (\d+ items?) after validation, not (\d+)$",
        r"expected at least \1, got \2",
    ),
    (r"^Extra inputs are not permitted$", "unknown field"),
    (r", unable to (?:parse|interpret).*$", ""),
    (r"^[A-Z](?=[a-z])", lambda first: first[0].lower()),
)


def expectation(message: str) -> str:
    """A finding's message as it is told."""
    for pattern, words in _WORDS:
        message = re.sub(pattern, words, message)
    return message


def place(steps: Sequence[str | int]) -> str:
    """Where it was found: `latents[0].mean`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def quoted(text: str) -> str:
    """A client's text as an error repeats it: in quotes, at most 100 characters, what does not print escaped."""
    return repr(text[:LONGEST]) + ("..." if len(text) > LONGEST else "")


def came(value: Any) -> str:
    """A value of a client as an error tells it, in the words of JSON: scalars bounded, containers by their kind."""
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):  # Python writes none of more than 4,300 digits
        return str(value) if abs(value) < 10**LONGEST else f"a number of more than {LONGEST} digits"
    if isinstance(value, float):
        return str(value)
    return "an object" if isinstance(value, dict) else "an array"
