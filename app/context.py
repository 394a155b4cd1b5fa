"""Request context: id, deadline and stage times of one request; and the names of endpoints, operations and stages."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import getrandbits
from typing import NamedTuple

NATIVE, OTHER = "native", "other"
"""The dialect of this project's own API, and the endpoint of paths that lead to none, in the labels of metrics."""


class EndpointPath(StrEnum):
    """Paths of the endpoints that are limited, counted and logged under their names."""

    ENCODE = "/encode"
    DECODE = "/decode"
    RECONSTRUCT = "/reconstruct"
    SAMPLE = "/sample"
    INTERPOLATE = "/interpolate"
    SCORE = "/score"
    MODEL = "/model"
    HISTORY = "/model/history"
    RELOAD = "/admin/reload"


class Operation(StrEnum):
    """Operations of a model that batches compute.

    DECODE_FLOATS decodes without rounding to grey levels, DEVIATIONS compares each pixel with its reconstruction.
    """

    ENCODE = "encode"
    DECODE = "decode"
    DECODE_FLOATS = "decode_floats"
    RECONSTRUCT = "reconstruct"
    DEVIATIONS = "deviations"
    SCORE = "score"


MODEL_PATHS = frozenset(EndpointPath) - {EndpointPath.MODEL, EndpointPath.HISTORY, EndpointPath.RELOAD}
"""Endpoints that use the queue of the model."""

STAGES = ("queue", "batch", "infer", "codec")
_SERVER_TIMING = b", ".join(b"%s;dur=%%.3f" % stage.encode() for stage in STAGES)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class StageSpan(NamedTuple):
    """One run of a stage, from `start` to `end`, in seconds on the clock of `time.monotonic`."""

    stage: str
    start: float
    end: float


def new_id() -> str:
    """Return a random id for a request that has none."""
    return f"{getrandbits(128):032x}"


def accepted_id(claimed: str) -> str:
    """Return the id in a client's header if it is safe to log, otherwise a new one."""
    return claimed if _REQUEST_ID.fullmatch(claimed) else new_id()


@dataclass(slots=True)
class RequestContext:
    """The state of one request.

    `deadline` is on the clock of `time.monotonic`, `model` is the identity of the model that computes the response, and
    `stage_seconds` are the sums of `record_stage`. `spans` is a list only in a request that is traced. `memory` is the
    number of bytes reserved for the request besides its body, `decompressed` that of a body which was compressed.
    `headers` are those of the request, names in lower case.
    """

    request_id: str
    deadline: float
    model: str = ""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    spans: list[StageSpan] | None = None
    memory: int = 0
    decompressed: int = 0
    headers: Mapping[bytes, bytes] = field(default_factory=dict)

    def expired(self) -> bool:
        """Return whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    def record_stage(self, stage: str, start: float, end: float) -> None:
        """Add the time of one run of a stage."""
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + end - start
        if (spans := self.spans) is not None:  # read once: the event loop may export and clear them meanwhile
            spans.append(StageSpan(stage, start, end))

    def server_timing(self) -> bytes:
        """Return the value of the Server-Timing header, in milliseconds."""
        return _SERVER_TIMING % tuple([1000 * self.stage_seconds.get(stage, 0.0) for stage in STAGES])
