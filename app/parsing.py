"""JSON that a caller sends, against its schema: read, or refused with one sentence, at a cost that its limits bound.

pydantic would take a kilobyte and 10 us for each of a million values that are wrong, and no other thread has a turn.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from app.errors import Malformed, TooLarge, Unusable
from app.findings import came, expectation, place, quoted

Model = TypeVar("Model", bound=BaseModel)

_TAGS = ("query", "vector", "grid", "posterior")
"""Steps of pydantic's places that a client does not know."""

_COMPLETE = ("missing", "too_short")
"""Types of findings whose message needs no word about what came."""


def parsed(schema: type[Model], body: bytes, *, values: int, names: int) -> Model:
    """The body by its schema, of which no usable one has more than so many values and names.

    Raises `Malformed` for what is no JSON, `TooLarge` for more values or names, `Unusable` where the schema is broken.
    """
    for mark, most, what in ((b",", values, "values"), (b":", names, "names")):
        if body.count(mark) > most:
            raise TooLarge(f"the body holds more than the {most} {what} that a request may have")
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise unusable(error.errors(include_url=False), schema) from None


def unusable(errors: Sequence[Any], schema: type[BaseModel] | None = None) -> Malformed | Unusable:
    """What pydantic found first, as one sentence: where, what was expected, what came.

    With the `schema` of the body it names the known fields beside an unknown one.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return Malformed(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    unknown = first["type"] == "extra_forbidden"  # the last step of its place is the name that came
    steps = [step for step in (first["loc"][:-1] if unknown else first["loc"]) if step not in _TAGS]
    where = place(steps) or "the body"
    if unknown:
        known = f"; known are {_fields(schema, steps)}" if schema else ""
        return Unusable(f"{where}: unknown field {quoted(str(first['loc'][-1]))}{known}")
    got = "" if first["type"] in _COMPLETE else f", got {came(first['input'])}"
    return Unusable(f"{where}: {expectation(first['msg'])}{got}")


def require_items(count: int, most: int) -> None:
    """Refuse more images or latents than one request may have: `TooLarge`."""
    if count > most:
        raise TooLarge(f"{count} items are more than the {most} allowed in one request")


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
