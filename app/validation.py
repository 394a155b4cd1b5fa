"""Validation of JSON bodies against pydantic schemas; the first error becomes one sentence of the service.

Parsers hold the interpreter's lock until they return, so the size of what they build is bounded before: orjson takes
some 50 ns for a number, 1 us for an array, and time that is linear in the bytes of numbers and strings, as pydantic's
own parser does not.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError

from app.errors import BadRequest, ContentTooLarge, UnprocessableContent

LONGEST = 100
"""Characters of a client's text that an error repeats."""

_WORDS = (
    (r"^Value error, ", ""),
    (r"^Input should be (greater|less) than", r"expected a number \1 than"),
    (r"^Input should be ", "expected "),
    (r"a valid dictionary or instance of \w+$", "an object"),
    (r"a valid list$", "a valid array"),
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


MAX_VALUES = 2**20
"""Values of one JSON body, whatever the limits of a request: orjson takes some 50 ms for as many."""

_WINDOW = 2**20
"""Bytes that one call of `bytes.count` looks at: some 1 ms."""


def parsed(schema: type[Model], body: bytes, *, values: int, names: int, arrays: int) -> Model:
    """The body by its schema, of which no usable one has more than so many values, names and arrays.

    Raises `BadRequest` for what is no JSON, `ContentTooLarge` for more of them or more than `MAX_VALUES`,
    `UnprocessableContent` for a body that does not match the schema.
    """
    for mark, limit, what in ((b",", values, "values"), (b":", names, "names"), (b"[", arrays, "arrays")):
        _require_few(body, mark, min(limit, MAX_VALUES), what)
    try:
        return schema.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise _unparsable(error) from None
    except ValidationError as error:
        raise unprocessable(error.errors(include_url=False), schema) from None


def _require_few(body: bytes, mark: bytes, limit: int, what: str) -> None:
    if len(body) <= limit:
        return
    if sum(body.count(mark, start, start + _WINDOW) for start in range(0, len(body), _WINDOW)) > limit:
        raise ContentTooLarge(f"the body holds more than the {limit} {what} that a request may have")


def _unparsable(error: orjson.JSONDecodeError) -> BadRequest | UnprocessableContent:
    """Numbers that are not finite, which some libraries write, have a place and a name; all else is no JSON."""
    name = next((name for name in ("NaN", "Infinity") if error.doc.startswith(name, error.pos)), "")
    if error.doc.startswith("-", error.pos - 1) and name:
        name = f"-{name}"
    if not name and "infinity" not in error.msg:
        return BadRequest(f"the body is not JSON: {error}")
    got = name or "a number that no float64 can hold"
    return UnprocessableContent(
        f"the body: expected finite numbers, got {got} at line {error.lineno} column {error.colno}"
    )


def unprocessable(errors: Sequence[Any], schema: type[BaseModel] | None = None) -> BadRequest | UnprocessableContent:
    """What pydantic found first, as one sentence: where, what was expected, what came.

    With the `schema` of the body it names the known fields beside an unknown one.
    """
    first = _most_telling(errors)
    unknown = first["type"] == "extra_forbidden"  # the last step of its place is the name that came
    steps = [step for step in (first["loc"][:-1] if unknown else first["loc"]) if step not in _TAGS]
    where = place(steps) or "the body"
    if unknown:
        known = f"; known are {_fields(schema, steps)}" if schema else ""
        return UnprocessableContent(f"{where}: unknown field {quoted(str(first['loc'][-1]))}{known}")
    got = "" if first["type"] in _COMPLETE else f", got {came(first['input'])}"
    return UnprocessableContent(f"{where}: {expectation(first['msg'])}{got}")


def _most_telling(errors: Sequence[Any]) -> Any:
    """The first error; if a field is missing, an unknown field of the same object, which may be the mistyped one."""
    first = errors[0]
    if first["type"] != "missing":
        return first
    unknown = (
        other for other in errors if other["type"] == "extra_forbidden" and other["loc"][:-1] == first["loc"][:-1]
    )
    return next(unknown, first)


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
