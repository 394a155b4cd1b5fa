"""JSON that a caller sends, against its schema: read, or refused with one sentence, at a cost that its limits bound.

pydantic would take a kilobyte and 10 us for each of a million values that are wrong, and no other thread has a turn.
"""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import Malformed, TooLarge, Unusable
from app.findings import expectation, place

Model = TypeVar("Model", bound=BaseModel)

_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?")


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
        raise unusable(error.errors(include_url=False)) from None


def unusable(errors: Sequence[Any]) -> Malformed | Unusable:
    """What pydantic found, as one sentence that repeats nothing of the input but a number."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return Malformed(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    unknown = first["type"] == "extra_forbidden"  # its name and value are the caller's own
    loc = first["loc"][:-1] if unknown else first["loc"]
    where = place([step for step in loc if step not in ("query", "vector", "grid", "posterior")])
    came = str(first["input"])
    got = f", got {came}" if _NUMBER.fullmatch(came) and not unknown else ""
    return Unusable(f"{where or 'the body'}: {expectation(first['msg'])}{got}")
