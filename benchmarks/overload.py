"""Overload: ten times more requests than the device can do. wrk sends them, which leaves the cores to the service.

python -m benchmarks.overload
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path

import numpy as np

from tests.support.live_server import Service, serving
from tests.support.load import HOST, for_seconds, format_counts, get, run_clients

SCRIPT = Path(__file__).with_name("flood.lua")
CLIENTS = 256
WORK = "/sample?n=64&seed=1"
"""64 exact images a request, so that the device is the limit and not HTTP."""


async def overload(rounds: int = 8, seconds: float = 3) -> str:
    """As much as the device can do, and ten times more, in turn; shares are of what it does for 8 callers."""
    calm, counts, shares, p50, p99 = Counter[str](), Counter[str](), list[float](), list[float](), list[float]()
    async with serving(threads=0, log_level="warning", max_queue_items=512, max_items=512) as service:

        async def rate_during(load: Awaitable[None]) -> float:
            start, began = await _images(service), time.monotonic()
            await load
            return (await _images(service) - start) / (time.monotonic() - began)

        async def flood(rate: float, seed: int) -> None:
            found = await _wrk(service.port, 1000 * CLIENTS / rate, seconds, seed)
            counts.update({name: found[name] for name in ("requests", "refused", "lost")})
            p50.append(found["p50_ms"])
            p99.append(found["p99_ms"])

        for seed in range(rounds):
            capacity = await rate_during(run_clients(service.port, get(WORK), 8, for_seconds(seconds), calm))
            shares.append(await rate_during(flood(capacity * 10 / 64, seed)) / capacity)
    return (
        f"of its capacity (last {capacity:.0f} images/s) the device did, round by round, "
        f"{', '.join(f'{share:.0%}' for share in shares)}, median {np.median(shares):.0%}; "
        f"refused in p50 {np.median(p50):.1f} ms, p99 {np.median(p99):.1f} ms; {format_counts(counts)}"
    )


async def _images(service: Service) -> float:
    """The number of images that the device has done."""
    return await service.count("vae_batch_size_sum")


async def _wrk(port: int, pause_ms: float, seconds: float, seed: int) -> dict[str, float]:
    words = ["--threads", "1", "--connections", str(CLIENTS), "--duration", f"{seconds:.0f}s", "--script", str(SCRIPT)]
    words += [f"http://{HOST}:{port}{WORK}", "--", str(pause_ms), str(seed)]
    process = await asyncio.create_subprocess_exec("wrk", *words, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    found: dict[str, float] = json.loads(printed.decode().strip().rpartition("\n")[2])
    return found


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(overload()) + "\n")
