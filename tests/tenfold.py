"""A device that multiplies by ten, and a house around it: the substitute behind the laws of batching."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from conftest import until

from app.batching import Batcher
from app.calls import Call
from app.metrics import Metrics
from app.pace import Pace
from app.runner import DeviceLost, OutOfMemory


class Kind(NamedTuple):
    operation: str = "encode"
    weight: int = 1


ENCODE = Kind()


class Tenfold:
    """A device that multiplies by ten, and that can be held back; it fails on -1, dies of -2 and is lost at -3.

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

    def pace(self, kind: Kind) -> Pace:
        return Pace(self.quick, at_once=True) if self.quick else Pace()

    def stack(self, kind: Kind, parts: Sequence[Sequence[int]]) -> list[int]:
        return [row for part in parts for row in part]

    def infer(self, kind: Kind, batch: list[int], *, alone: bool = False) -> list[int]:
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
        if len(batch) > self.room:
            raise OutOfMemory(f"no room for {len(batch)} rows")
        return [10 * row for row in batch]


class House(NamedTuple):
    batcher: Batcher
    device: Tenfold
    metrics: Metrics

    async def ask(self, *rows: int, kind: Kind = ENCODE, seconds: float = 60) -> list[int]:
        parts = await self.batcher.submit(kind, rows, Call("id", time.monotonic() + seconds))
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
