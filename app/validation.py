"""Validation of client data against pydantic schemas; the first error becomes one sentence of the service.

Parsers hold the interpreter's lock until they return, so the size of what they build is limited first: orjson takes
some 50 ns for a number, 1 us for an array, and linear time for the bytes of numbers and strings, unlike pydantic's own
parser.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from app.errors import BadRequest, ContentTooLarge, UnprocessableContent

MAX_QUOTED_LENGTH = 100
"""Characters of a client's text that an error repeats."""

MAX_VALUES = 2**20
"""Values of one JSON body, independent of the limits of a request: orjson takes some 50 ms for as many."""

_COUNT_WINDOW = 2**20
"""Bytes that one call of `bytes.count` searches, in some 1 ms."""

_INTEGER, _NUMBER, _OBJECT = "expected a valid integer", "expected a valid number", "expected an object"
_EXPECTED = {
    "dict_type": _OBJECT,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "expected a number greater than {gt}",
    "greater_than_equal": "expected a number greater than or equal to {ge}",
    "int_from_float": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": _INTEGER,
    "int_type": _INTEGER,
    "less_than": "expected a number less than {lt}",
    "less_than_equal": "expected a number less than or equal to {le}",
    "list_type": "expected a valid array",
    "literal_error": "expected {expected}",
    "missing": "expected a value",
    "model_attributes_type": _OBJECT,
    "model_type": _OBJECT,
    "too_long": "expected at most {max_length} item{s}",
    "too_short": "expected at least {min_length} item{s}",
    "value_error": "{error}",
}
"""What was expected, by pydantic's type of the error and the values of its `ctx`."""

_TAGS = ("query", "vector", "grid", "text", "posterior")
"""Steps in pydantic's location of an error that are not in the client's data."""

Model = TypeVar("Model", bound=BaseModel)


def expectation(error: ErrorDetails) -> str:
    """Return what was expected where pydantic found an error."""
    template = _EXPECTED.get(error["type"])
    if template is not None:
        return template.format(**_context(error))
    message = error["msg"].replace("Input should be ", "expected ", 1)
    return message[:1].lower() + message[1:]


def _context(error: ErrorDetails) -> dict[str, Any]:
    """Return pydantic's values for the template of an error, and the plural `s` of a number of items."""
    context = {name: _without_zeros(value) for name, value in error.get("ctx", {}).items()}
    return context | {"s": "s" * (1 not in (context.get("min_length"), context.get("max_length")))}


def _without_zeros(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def json_path(steps: Sequence[str | int]) -> str:
    """Return a location as a path: `latents[0].mean`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def quoted(text: str) -> str:
    """Quote a client's text for an error: at most 100 characters, with escapes for those that do not print."""
    return repr(text[:MAX_QUOTED_LENGTH]) + ("..." if len(text) > MAX_QUOTED_LENGTH else "")


def describe_value(value: Any) -> str:
    """Describe a JSON value for an error: scalars in bounded length, containers by their kind."""
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):  # Python refuses to write more than 4,300 digits
        short = abs(value) < 10**MAX_QUOTED_LENGTH
        return str(value) if short else f"a number of more than {MAX_QUOTED_LENGTH} digits"
    if isinstance(value, float):
        return str(value)
    return "an object" if isinstance(value, dict) else "an array"


def parse_json(schema: type[Model], body: bytes, *, max_values: int, max_names: int, max_arrays: int) -> Model:
    """Parse and validate a JSON body; no valid body has more values, names and arrays than the limits.

    Raises `BadRequest` for a body that is not JSON, `ContentTooLarge` for a body over a limit or `MAX_VALUES`,
    `UnprocessableContent` for a body that does not match the schema.
    """
    for mark, limit, what in ((b",", max_values, "values"), (b":", max_names, "names"), (b"[", max_arrays, "arrays")):
        _require_count(body, mark, min(limit, MAX_VALUES), what)
    try:
        return schema.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise _decode_error(error) from None
    except ValidationError as error:
        raise unprocessable(error.errors(include_url=False), schema) from None


def unprocessable(errors: Sequence[ErrorDetails], schema: type[BaseModel] | None = None) -> UnprocessableContent:
    """Return the first of pydantic's errors as one sentence: where it is, what was expected, what the value is.

    With the `schema` a missing field is answered with its description, an unknown field with the known ones.
    """
    first = _most_helpful(errors)
    is_unknown = first["type"] == "extra_forbidden"  # then the last step of the location is the client's name
    steps = [step for step in (first["loc"][:-1] if is_unknown else first["loc"]) if step not in _TAGS]
    where = json_path(steps) or "the body"
    if is_unknown:
        known = f"; known are {', '.join(_fields(schema, steps))}" if schema else ""
        return UnprocessableContent(f"{where}: unknown field {quoted(str(first['loc'][-1]))}{known}")
    if first["type"] == "missing":
        description = schema and _fields(schema, steps[:-1])[str(steps[-1])].description
        return UnprocessableContent(f"{where}: missing; expected {description or 'a value'}")
    is_length = first["type"] in ("too_long", "too_short")
    got = str(len(first["input"])) if is_length else describe_value(first["input"])
    return UnprocessableContent(f"{where}: {expectation(first)}, got {got}")


def require_items(count: int, limit: int) -> None:
    """Raise `ContentTooLarge` for more images or latents than one request may have."""
    if count > limit:
        raise ContentTooLarge(f"{count} items are more than the {limit} allowed in one request")


def _require_count(body: bytes, mark: bytes, limit: int, what: str) -> None:
    if len(body) <= limit:
        return
    if sum(body.count(mark, start, start + _COUNT_WINDOW) for start in range(0, len(body), _COUNT_WINDOW)) > limit:
        raise ContentTooLarge(f"the body holds more than the {limit} {what} that a request may have")


def _decode_error(error: orjson.JSONDecodeError) -> BadRequest | UnprocessableContent:
    """Return the error of a body that is not JSON; non-finite numbers, which some libraries write, are described."""
    name = next((name for name in ("NaN", "Infinity") if error.doc.startswith(name, error.pos)), "")
    if error.doc.startswith("-", error.pos - 1) and name:
        name = f"-{name}"
    if not name and "infinity" not in error.msg:
        return BadRequest(f"the body is not JSON: {error}")
    got = name or "a number that no float64 can hold"
    return UnprocessableContent(
        f"the body: expected finite numbers, got {got} at line {error.lineno} column {error.colno}"
    )


def _most_helpful(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the first error; but for a missing field an unknown one of the same object, perhaps a typing error."""
    first = errors[0]
    if first["type"] != "missing":
        return first
    unknown = (
        other for other in errors if other["type"] == "extra_forbidden" and other["loc"][:-1] == first["loc"][:-1]
    )
    return next(unknown, first)


def _fields(schema: type[BaseModel], location: Sequence[str | int]) -> Mapping[str, FieldInfo]:
    """Return the fields of the object at a location of the body, by their names."""
    for step in location:
        if isinstance(step, str):
            schema = next(_schemas(schema.model_fields[step].annotation), schema)
    return schema.model_fields


def _schemas(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _schemas(argument)
