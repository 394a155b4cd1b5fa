"""A fake device that multiplies by ten, and a harness with a batcher in front of it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.batching.batcher import Batcher
from app.batching.executor import DeviceLost, OutOfMemory
from app.batching.policy import BatchPolicy
from app.context import RequestContext
from app.observability.metrics import Metrics
from tests.support.apps import until
from tests.support.metrics import metric


def no_result(batch: list[int]) -> None:
    return None


def short_result(batch: list[int]) -> list[int]:
    return [10 * row for row in batch[1:]]


def long_result(batch: list[int]) -> list[int]:
    return [10 * row for row in [*batch, 0]]


def number_as_result(batch: list[int]) -> int:
    return len(batch)


def mapping_as_result(batch: list[int]) -> dict[int, int]:
    return dict(enumerate(batch))


def out_of_host_memory(batch: list[int]) -> None:
    raise MemoryError


def interrupted(batch: list[int]) -> None:
    raise KeyboardInterrupt


def cancelled(batch: list[int]) -> None:
    raise asyncio.CancelledError


FAULTS: dict[int, Callable[[list[int]], Any]] = {
    -11: no_result,
    -12: short_result,
    -13: long_result,
    -14: number_as_result,
    -15: mapping_as_result,
    -16: out_of_host_memory,
    -21: interrupted,
    -22: cancelled,
}
"""What the device does with a batch that holds such a row. Rows above -20 fail; those below end the device thread."""


class FakeDevice:
    """A device that multiplies by ten and can be blocked. It raises on -1, exits on -2 and is lost at -3.

    A row of `FAULTS` causes another fault. `capacity` is the number of rows that fit into memory. Batches are padded to
    a multiple of `padded_to` rows, and those of up to `inline_rows` rows run inline. An `interruptible` device checks
    after each batch whether its results are needed.
    """

    def __init__(self, inline_rows: int = 0) -> None:
        self.capacity = 1_000_000
        self.padded_to = 1
        self.interruptible = False
        self.policy = BatchPolicy(inline_rows, inline=True) if inline_rows else BatchPolicy()
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.single: list[bool] = []
        self.unblocked = threading.Event()
        self.unblocked.set()

    def policy_of(self, operation: str) -> BatchPolicy:
        return self.policy

    def run(self, batch: list[int], *, single: bool = False) -> Any:
        self.batches.append(batch)
        self.single.append(single)
        self.threads.append(threading.current_thread().name)
        assert self.unblocked.wait(30)
        if -1 in batch:
            raise ValueError("hunter2")
        if -2 in batch:
            raise SystemExit
        if -3 in batch:
            raise DeviceLost("an illegal access")
        for row, fault in FAULTS.items():
            if row in batch:
                return fault(batch)
        if len(batch) > self.capacity:
            raise OutOfMemory(f"no room for {len(batch)} rows")
        return [10 * row for row in batch]


@dataclass(frozen=True)
class FakeKey:
    """A batch key of the fake device."""

    device: FakeDevice
    operation: Any = "encode"
    weight: int = 1

    @property
    def policy(self) -> BatchPolicy:
        return self.device.policy_of(self.operation)

    def stack(self, parts: Sequence[Sequence[int]]) -> list[int]:
        rows = [row for part in parts for row in part]
        return rows + [0] * (-len(rows) % self.device.padded_to)

    def run(self, batch: list[int], *, single: bool, check: Callable[[], None]) -> Any:
        results = self.device.run(batch, single=single)
        if self.device.interruptible:
            check()
        return results


class BatcherHarness(NamedTuple):
    batcher: Batcher
    device: FakeDevice
    metrics: Metrics

    async def submit(self, *rows: int, seconds: float = 60, **key: Any) -> list[int]:
        context = RequestContext("id", time.monotonic() + seconds)
        parts = await self.batcher.submit(FakeKey(self.device, **key), rows, context)
        return [row for part in parts for row in part]

    def tasks(self, *requests: Sequence[int], **options: Any) -> list[asyncio.Task[list[int]]]:
        return [asyncio.create_task(self.submit(*rows, **options)) for rows in requests]

    def metric(self, name: str, **labels: str) -> float | None:
        return metric(self.metrics, name, **labels)

    async def queue_holds(self, items: int) -> None:
        await until(lambda: self.batcher.queued_items == items)

    async def block_device(self) -> asyncio.Task[list[int]]:
        """Give the device one row, and block the device in that batch."""
        self.device.unblocked.clear()
        (first,) = self.tasks([0])
        await until(lambda: [0] in self.device.batches)
        return first


@asynccontextmanager
async def running_batcher(
    max_batch_size: int = 4,
    max_queue_items: int = 100,
    max_delay: float = 0,
    inline_rows: int = 0,
    device: FakeDevice | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[BatcherHarness]:
    device, metrics = device or FakeDevice(inline_rows), metrics or Metrics()
    limits = {"max_batch_size": max_batch_size, "max_queue_items": max_queue_items, "max_delay": max_delay}
    batcher = Batcher(metrics, **limits)
    batcher.start()
    try:
        yield BatcherHarness(batcher, device, metrics)
    finally:
        device.unblocked.set()
        await batcher.close()
