"""What pydantic finds wrong, in this service's words: what was expected, and no name of a library's."""

import re
from collections.abc import Sequence

_WORDS = (
    (r"^Value error, ", ""),
    (r"^Input should be (greater|less) than", r"expected a number \1 than"),
    (r"^Input should be ", "expected "),
    (r"a valid dictionary or instance of \w+$", "an object"),
    (
        r"^(?:List|Tuple) should have at least (\d+ items?) after validation, not (\d+)$",
        r"expected at least \1, got \2",
    ),
    (r"^Extra inputs are not permitted$", "unknown field; /docs lists those that there are"),
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
