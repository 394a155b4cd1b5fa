"""One request on its way through the house: its id, its deadline, and where its time went."""

import re
import time
from dataclasses import dataclass, field
from random import getrandbits
from typing import NamedTuple

STAGES = ("queue", "batch", "infer", "codec")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class StageSpan(NamedTuple):
    """A stretch of one stage, from `start` to `end`, in seconds on the clock of `time.monotonic`."""

    stage: str
    start: float
    end: float


def new_id() -> str:
    """An id for a request that brings none."""
    return f"{getrandbits(128):032x}"


def accepted_id(claimed: str) -> str:
    """The id that a client claims for its request, where it is harmless in a log; else a new one."""
    return claimed if _REQUEST_ID.fullmatch(claimed) else new_id()


@dataclass(slots=True)
class RequestContext:
    """The state of one request.

    `deadline` is on the clock of `time.monotonic`, `model` names the model that answers, and `stage_seconds` is what
    each stage has taken. `spans` are kept only where the request is traced: one for each time that a stage ran.
    `memory` is the bytes that are counted for the request besides its body.
    """

    request_id: str
    deadline: float
    model: str = ""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    spans: list[StageSpan] | None = None
    memory: int = 0

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    def record_stage(self, stage: str, start: float, end: float) -> None:
        """Add to what a stage has taken."""
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + end - start
        if (spans := self.spans) is not None:  # on another thread they may be told just now
            spans.append(StageSpan(stage, start, end))

    def server_timing(self) -> str:
        """The Server-Timing header's value, milliseconds."""
        return ", ".join(f"{stage};dur={self.stage_seconds.get(stage, 0.0) * 1000:.3f}" for stage in STAGES)
