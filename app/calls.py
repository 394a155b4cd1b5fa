"""One request on its way through the house: its id, its deadline, and where its time went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("queue", "batch", "infer", "codec")


@dataclass(slots=True)
class Call:
    """`deadline` is on the clock of `time.monotonic`, `model` is who answers, `seconds` what each stage has taken."""

    request_id: str
    deadline: float
    model: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, stage: str, seconds: float) -> None:
        """Add to what a stage has taken."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time inside the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spend(stage, time.perf_counter() - start)

    def server_timing(self) -> str:
        """The Server-Timing header's value, milliseconds."""
        return ", ".join(f"{stage};dur={self.seconds.get(stage, 0.0) * 1000:.3f}" for stage in STAGES)
