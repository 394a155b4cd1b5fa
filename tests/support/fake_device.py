"""A device that multiplies by ten, and a house around it: the substitute behind the laws of batching."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from app.batching.batcher import Batcher
from app.batching.executor import DeviceLost, OutOfMemory
from app.batching.policy import BatchPolicy
from app.context import RequestContext
from app.observability.metrics import Metrics
from tests.support.apps import until


class Kind(NamedTuple):
    operation: str = "encode"
    weight: int = 1


ENCODE = Kind()


def no_answer(batch: list[int]) -> None:
    return None


def short_answer(batch: list[int]) -> list[int]:
    return [10 * row for row in batch[1:]]


def long_answer(batch: list[int]) -> list[int]:
    return [10 * row for row in [*batch, 0]]


def number_as_answer(batch: list[int]) -> int:
    return len(batch)


def mapping_as_answer(batch: list[int]) -> dict[int, int]:
    return dict(enumerate(batch))


def out_of_host_memory(batch: list[int]) -> None:
    raise MemoryError


def interrupted(batch: list[int]) -> None:
    raise KeyboardInterrupt


def cancelled(batch: list[int]) -> None:
    raise asyncio.CancelledError


FAULTS: dict[int, Callable[[list[int]], Any]] = {
    -11: no_answer,
    -12: short_answer,
    -13: long_answer,
    -14: number_as_answer,
    -15: mapping_as_answer,
    -16: out_of_host_memory,
    -21: interrupted,
    -22: cancelled,
}
"""What the device does with a batch in which such a row is: up to -20 it goes on afterwards, below that it ends."""


class Tenfold:
    """A device that multiplies by ten, and that can be held back; it fails on -1, dies of -2 and is lost at -3.

    At each row of `FAULTS` it misbehaves in another way.

    It has room for `room` rows at once, and `quick` of them take no time worth a thread.
    """

    def __init__(self, quick: int = 0) -> None:
        self.room = 1_000_000
        self.quick = quick
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.alone: list[bool] = []
        self.free = threading.Event()
        self.free.set()

    def pace(self, kind: Kind) -> BatchPolicy:
        return BatchPolicy(self.quick, at_once=True) if self.quick else BatchPolicy()

    def stack(self, kind: Kind, parts: Sequence[Sequence[int]]) -> list[int]:
        return [row for part in parts for row in part]

    def infer(self, kind: Kind, batch: list[int], *, alone: bool = False) -> Any:
        self.batches.append(batch)
        self.alone.append(alone)
        self.threads.append(threading.current_thread().name)
        assert self.free.wait(30)
        if -1 in batch:
            raise ValueError("hunter2")
        if -2 in batch:
            raise SystemExit
        if -3 in batch:
            raise DeviceLost("an illegal access")
        for row, fault in FAULTS.items():
            if row in batch:
                return fault(batch)
        if len(batch) > self.room:
            raise OutOfMemory(f"no room for {len(batch)} rows")
        return [10 * row for row in batch]


class House(NamedTuple):
    batcher: Batcher
    device: Tenfold
    metrics: Metrics

    async def ask(self, *rows: int, kind: Kind = ENCODE, seconds: float = 60) -> list[int]:
        parts = await self.batcher.submit(kind, rows, RequestContext("id", time.monotonic() + seconds))
        return [row for part in parts for row in part]

    def tasks(self, *requests: Sequence[int], **options: Any) -> list[asyncio.Task[list[int]]]:
        return [asyncio.create_task(self.ask(*rows, **options)) for rows in requests]

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"vae_{name}", labels)

    async def waits(self, depth: int) -> None:
        await until(lambda: self.count("queue_items") == depth)

    async def occupy(self) -> asyncio.Task[list[int]]:
        """Give the device one row, and hold it there."""
        self.device.free.clear()
        (first,) = self.tasks([0])
        await until(lambda: [0] in self.device.batches)
        return first


@asynccontextmanager
async def house(
    max_batch_size: int = 4,
    max_queue_items: int = 100,
    max_delay: float = 0,
    quick: int = 0,
    device: Tenfold | None = None,
) -> AsyncIterator[House]:
    device, metrics = device or Tenfold(quick), Metrics()
    limits = {"max_batch_size": max_batch_size, "max_queue_items": max_queue_items, "max_delay": max_delay}
    batcher = Batcher(device, metrics, **limits)
    batcher.start()
    try:
        await until(lambda: batcher.idle)
        yield House(batcher, device, metrics)
    finally:
        device.free.set()
        await batcher.close()
