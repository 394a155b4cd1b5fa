"""Codec threads: small jobs overtake large ones, and cancelled jobs never run."""

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from app.codecs.threads import DELAY, LARGE, CodecThreads, divide_into_jobs
from tests.support.apps import until

pytestmark = pytest.mark.anyio

PIXELS = 2**24


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def threads(clock: Clock) -> AsyncIterator[Callable[[int], CodecThreads]]:
    made: list[CodecThreads] = []

    def start(count: int) -> CodecThreads:
        made.append(CodecThreads(count, clock))
        made[-1].start()
        return made[-1]

    yield start
    for pool in made:
        pool.close()


class Gate:
    """Work that ends when the gate opens; `begun` are the names of the works that have begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._open = threading.Event()

    def pass_through(self, name: str) -> str:
        self.begun.append(name)
        assert self._open.wait(30)
        return name

    def open(self) -> None:
        self._open.set()


async def submit(pool: CodecThreads, gate: Gate, **costs: int) -> list[asyncio.Task[str]]:
    """Submit jobs of these names and costs, one after the other."""
    tasks = []
    for name, cost in costs.items():
        tasks.append(asyncio.create_task(pool.run(cost, partial(gate.pass_through, name))))
        await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_a_small_job_runs_while_large_ones_run_and_wait(threads, count):
    pool, gate = threads(count), Gate()
    large = await submit(pool, gate, **{f"large {n}": PIXELS for n in range(20)})
    assert await asyncio.wait_for(pool.run(1000, lambda: "small"), 30) == "small"
    await until(lambda: len(gate.begun) == count - 1)
    gate.open()
    assert await asyncio.gather(*large) == [f"large {n}" for n in range(20)]


async def test_small_jobs_run_on_all_threads(threads):
    pool, together = threads(3), threading.Barrier(3)
    names = await asyncio.gather(*(pool.run(LARGE - 1, partial(wait_and_name, together)) for _ in range(3)))
    assert sorted(names) == ["codec_0", "codec_1", "codec_2"]


def wait_and_name(barrier: threading.Barrier) -> str:
    barrier.wait(30)
    return threading.current_thread().name


async def test_waiting_jobs_of_less_cost_run_first(threads):
    pool, gate = threads(2), Gate()
    tasks = await submit(pool, gate, first=PIXELS, large=PIXELS, medium=PIXELS // 2, least=LARGE)
    gate.open()
    await asyncio.gather(*tasks)
    assert gate.begun == ["first", "least", "medium", "large"]


async def test_jobs_of_the_same_cost_run_in_order_of_submission(threads):
    pool, gate = threads(2), Gate()
    tasks = await submit(pool, gate, **{str(n): PIXELS for n in range(9)})
    gate.open()
    await asyncio.gather(*tasks)
    assert gate.begun == [str(n) for n in range(9)]


async def test_a_large_job_is_overtaken_for_a_limited_time_only(threads, clock):
    pool, gate = threads(2), Gate()
    tasks = await submit(pool, gate, first=PIXELS, large=PIXELS)
    clock.now = DELAY * (PIXELS - LARGE) * 0.9
    tasks += await submit(pool, gate, early=LARGE)
    clock.now = DELAY * (PIXELS - LARGE) * 1.1
    tasks += await submit(pool, gate, late=LARGE)
    gate.open()
    await asyncio.gather(*tasks)
    assert gate.begun == ["first", "early", "large", "late"]


async def test_a_job_cancelled_while_it_waits_never_runs_and_releases_its_arguments(threads):
    pool, gate, needed = threads(2), Gate(), Gate()
    first = await submit(pool, gate, first=PIXELS)
    (waiting,) = await submit(pool, needed, waiting=PIXELS)
    kept = weakref.ref(needed)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    del needed, waiting
    assert kept() is None
    gate.open()
    await asyncio.gather(*first)
    assert await pool.run(PIXELS, lambda: "next") == "next"


async def test_a_job_cancelled_while_it_runs_keeps_its_thread_until_it_ends(threads):
    pool, gate = threads(2), Gate()
    (running, waiting) = await submit(pool, gate, running=PIXELS, waiting=PIXELS)
    await until(lambda: gate.begun == ["running"])
    running.cancel()
    await asyncio.wait([running])
    assert await pool.run(1, lambda: "small") == "small"
    assert gate.begun == ["running"]
    gate.open()
    assert await waiting == "waiting"


async def test_the_exception_of_a_job_is_raised_to_its_caller_and_the_next_job_runs(threads):
    pool = threads(1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(PIXELS, lambda: 1 // 0)
    assert await pool.run(PIXELS, lambda: 7) == 7


@pytest.mark.parametrize(
    ("costs", "jobs"),
    [
        ([1], [1]),
        ([LARGE * 9], [1]),
        ([LARGE * 9, LARGE * 9, 1], [1, 1, 1]),
        ([LARGE // 2] * 5, [2, 2, 1]),
        ([1] * 9, [9]),
        ([LARGE, 1, 1, LARGE, 1], [1, 2, 1, 1]),
    ],
)
def test_images_are_divided_into_jobs_that_are_not_large_or_hold_one_image(costs, jobs):
    slices = [*divide_into_jobs(costs)]
    assert [len(costs[job]) for job in slices] == jobs
    assert [cost for job in slices for cost in costs[job]] == costs
    assert [job.start for job in slices] == [sum(jobs[:n]) for n in range(len(jobs))]
