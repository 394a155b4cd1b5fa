"""JSON bytes of plain values and numpy arrays, by orjson."""

from typing import Any

import orjson


def dump(value: Any) -> bytes:
    """JSON bytes of plain values and numpy arrays."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
