"""Callers whose every request is counted, and what they send."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from PIL import Image

from benchmarks.wire import Answer, Line

NPY = "application/x-npy"


def png(level: int | None = None) -> bytes:
    """A picture of noise, or of one grey level."""
    pixels = np.random.default_rng().integers(0, 256, (28, 28), np.uint8) if level is None else np.full((28, 28), level)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def npy(count: int) -> bytes:
    """So many pictures of noise."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8))
    return file.getvalue()


async def asked(line: Line, request: bytes, counts: Counter[str]) -> Answer:
    """One request, counted by what became of it."""
    counts["sent"] += 1
    answer = await line.ask(request)
    counts["lost" if answer.status == 0 else f"answered {answer.status}"] += 1
    return answer


async def crowd(port: int, request: bytes, callers: int, going: Callable[[], bool], counts: Counter[str]) -> None:
    """Callers who ask again as soon as they are answered, and who go when nobody listens any more."""

    async def caller() -> None:
        line = Line(port)
        with suppress(ConnectionRefusedError):
            while going():
                await asked(line, request, counts)
        line.cut()

    await asyncio.gather(*(caller() for _ in range(callers)))


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Whether the time is not over yet."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
