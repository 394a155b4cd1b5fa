"""Validation of JSON bodies against pydantic schemas; the first error becomes one sentence of the service.

pydantic takes a kilobyte and 10 us for each of a million values that are wrong, and no other thread has a turn: so the
number of values is bounded before.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from app.errors import BadRequest, ContentTooLarge, UnprocessableContent

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


Model = TypeVar("Model", bound=BaseModel)

_TAGS = ("query", "vector", "grid", "posterior")
"""Steps of pydantic's places that a client does not know."""

_COMPLETE = ("missing", "too_short")
"""Types of findings whose message needs no word about what came."""


def parsed(schema: type[Model], body: bytes, *, values: int, names: int) -> Model:
    """The body by its schema, of which no usable one has more than so many values and names.

    Raises `BadRequest` for what is no JSON, `ContentTooLarge` for more values or names, `UnprocessableContent` for a
    body that does not match the schema.
    """
    for mark, most, what in ((b",", values, "values"), (b":", names, "names")):
        if body.count(mark) > most:
            raise ContentTooLarge(f"the body holds more than the {most} {what} that a request may have")
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise unprocessable(error.errors(include_url=False), schema) from None


def unprocessable(errors: Sequence[Any], schema: type[BaseModel] | None = None) -> BadRequest | UnprocessableContent:
    """What pydantic found first, as one sentence: where, what was expected, what came.

    With the `schema` of the body it names the known fields beside an unknown one.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    unknown = first["type"] == "extra_forbidden"  # the last step of its place is the name that came
    steps = [step for step in (first["loc"][:-1] if unknown else first["loc"]) if step not in _TAGS]
    where = place(steps) or "the body"
    if unknown:
        known = f"; known are {_fields(schema, steps)}" if schema else ""
        return UnprocessableContent(f"{where}: unknown field {quoted(str(first['loc'][-1]))}{known}")
    got = "" if first["type"] in _COMPLETE else f", got {came(first['input'])}"
    return UnprocessableContent(f"{where}: {expectation(first['msg'])}{got}")


def require_items(count: int, most: int) -> None:
    """Refuse more images or latents than one request may have: `ContentTooLarge`."""
    if count > most:
        raise ContentTooLarge(f"{count} items are more than the {most} allowed in one request")


def _fields(schema: type[BaseModel], where: Sequence[str | int]) -> str:
    """The names of the fields of the object at that place of a body."""
    for step in where:
        if isinstance(step, str):
            schema = next(_schemas(schema.model_fields[step].annotation), schema)
    return ", ".join(schema.model_fields)


def _schemas(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _schemas(argument)
