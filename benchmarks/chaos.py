"""What the service does when things go wrong, every request counted: `python -m benchmarks.chaos`, about two minutes.

    overload   ten times more arrives than the device can do: refused in time, and the accepted keep their throughput
    fairness   one image beside a request of 4,096
    drain      SIGTERM under load: all that was accepted is answered, exit 0
    kill       SIGKILL under load: nobody hangs, and the next process serves
    reload     SIGHUP under load, again and again: every answer names the weights that are served
    leavers    callers who go in the middle of everything, beside callers who stay
    poison     pictures that make the model fail, in batches with pictures that do not

Counts are sent, then what became of them; `lost` is a request on an open line that was never answered.
"""

import asyncio
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import typer

from benchmarks.crowd import NPY, asked, crowd, for_seconds, npy, png
from benchmarks.overload import overload
from benchmarks.wire import Line, get, post, serving, told

SHIPPED = Path("model/checkpoints/mnist")
POISONED = """
import sys
from app.observability.logs import configure_logging
from app.server.listener import Listener
from app.server.server import Server, run
from app.settings import read_settings
settings = read_settings(sys.argv[2:])
configure_logging(settings)
server = Server(settings, Listener(settings.host, settings.port))
def poison(module, arguments):
    if (arguments[0] == 1).flatten(1).all(1).any():
        raise RuntimeError("poison")
server.services.engine.loaded_model.checkpoint.vae.encoder.register_forward_pre_hook(poison)
run(server)
"""
"""The service as it is, around a model that fails on a white picture."""


_LEFT = re.compile(r'vae_requests_total\{.*status="499"')
ONE = post("/encode", "image/png", png())


async def fairness() -> str:
    """Single images while requests of 4,096 are under way."""
    counts = Counter[str]()
    async with serving() as it:
        large = post("/encode", NPY, npy(4096), Accept=NPY)
        start = time.perf_counter()
        await asked(Line(it.port), large, counts)
        alone = time.perf_counter() - start
        waits, others = [], [asyncio.create_task(asked(Line(it.port), large, counts)) for _ in range(2)]
        await asyncio.sleep(alone / 4)
        while not all(task.done() for task in others):
            start = time.perf_counter()
            await asked(Line(it.port), ONE, counts)
            waits.append(time.perf_counter() - start)
        await asyncio.gather(*others)
    worst = max(waits) * 1000
    return (
        f"4,096 images alone take {alone * 1000:.0f} ms; beside two such requests one image takes "
        f"{np.median(waits) * 1000:.0f} ms, at worst {worst:.0f} ms, {len(waits)} times; {told(counts)}"
    )


async def drain() -> str:
    """SIGTERM under load; `before` was sent before the signal, `after` while the service was going.

    After the signal every answer closes its line, and who then opens a new one may find nobody behind it: those are the
    lost of `after`, which nobody had accepted. There must be none in `before`.
    """
    before, after = Counter[str](), Counter[str]()
    async with serving() as it:
        told_to_end = asyncio.Event()

        async def caller() -> None:
            line = Line(it.port)
            with suppress(ConnectionRefusedError):
                while True:
                    await asked(line, ONE, after if told_to_end.is_set() else before)

        load = asyncio.gather(*(caller() for _ in range(32)))
        await asyncio.sleep(3)
        told_to_end.set()
        code = await it.ends(signal.SIGTERM)
        await load
    return f"exit code {code}; before: {told(before)}; after: {told(after)}"


async def kill() -> str:
    """SIGKILL under load, then the next process on the same model."""
    counts, again = Counter[str](), Counter[str]()
    async with serving() as it:
        load = asyncio.create_task(crowd(it.port, ONE, 32, lambda: it.process.returncode is None, counts))
        await asyncio.sleep(3)
        await it.ends(signal.SIGKILL)
        async with asyncio.timeout(5):
            await load
    async with serving() as it:
        await crowd(it.port, ONE, 32, for_seconds(2), again)
    return f"{told(counts)} (32 callers); the next process: {told(again)}"


async def reload() -> str:
    """SIGHUP every half second, two models in turn."""
    counts, models = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "served"
        shutil.copytree(SHIPPED, folder)
        weights = (folder / "model.safetensors").read_bytes()
        async with serving("--model", str(folder)) as it:

            async def caller(going: Callable[[], bool]) -> None:
                line = Line(it.port)
                while going():
                    answer = await asked(line, ONE, counts)
                    models[json.loads(answer.body)["model"] if answer.status == 200 else "none"] += 1

            load = asyncio.gather(*(caller(for_seconds(10)) for _ in range(16)))
            for turn in range(18):
                await asyncio.sleep(0.5)
                _replace(folder / "model.safetensors", _other(weights) if turn % 2 == 0 else weights)
                it.process.send_signal(signal.SIGHUP)
            await load
            reloads = (await it.metrics())['vae_reloads_total{outcome="success"}']
    return f"{reloads:.0f} reloads; {told(counts)}; by model: {told(models)}"


def _other(weights: bytes) -> bytes:
    from safetensors.torch import load, save  # noqa: PLC0415  # torch takes seconds

    return save({key: tensor * 1.01 for key, tensor in load(weights).items()})


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


async def leavers() -> str:
    """A thousand callers who go at any moment, beside sixteen who stay."""
    stayed, gone = Counter[str](), Counter[str]()
    requests = [ONE, post("/encode", NPY, npy(300)), get("/sample?n=16"), post("/score", NPY, npy(20))]
    async with serving() as it:
        files = (await it.metrics())["process_open_fds"]

        async def leaver(chance: random.Random) -> None:
            await asyncio.sleep(chance.uniform(0, 8))
            line, request = Line(it.port), chance.choice(requests)
            gone["sent"] += 1
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(chance.uniform(0, 0.05)):
                    cut = len(request) if chance.random() < 0.7 else chance.randrange(len(request))
                    gone["answered in time"] += (await line.ask(request[:cut])).status != 0
            line.cut()

        load = asyncio.create_task(crowd(it.port, ONE, 16, for_seconds(9), stayed))
        await asyncio.gather(
            *(leaver(random.Random(seed)) for seed in range(1000))  # noqa: S311  # chances, not secrets
        )
        await load
        metrics, patience = await it.metrics(), for_seconds(20)
        while (metrics["vae_queue_items"] or metrics["process_open_fds"] > files) and patience():
            await asyncio.sleep(0.1)
            metrics = await it.metrics()
        noticed = sum(value for series, value in metrics.items() if _LEFT.match(series))
        left = f"queue {metrics['vae_queue_items']:.0f}, open files {metrics['process_open_fds'] - files:+.0f}"
    return f"who stayed: {told(stayed)}; who left: {told(gone)}, noticed {noticed:.0f}; left behind: {left}"


async def poison() -> str:
    """One caller in twenty sends what the model fails on."""
    clean, poisoned = Counter[str](), Counter[str]()
    async with serving(program=POISONED) as it:
        bad = post("/encode", "image/png", png(255))
        await asyncio.gather(
            crowd(it.port, ONE, 38, for_seconds(5), clean), crowd(it.port, bad, 2, for_seconds(5), poisoned)
        )
        live = (await Line(it.port).ask(get("/livez"))).status
    return f"clean: {told(clean)}; poisoned: {told(poisoned)}; /livez {live}"


EXPERIMENTS: tuple[Callable[[], Awaitable[str]], ...] = (overload, fairness, drain, kill, reload, leavers, poison)


async def _run(names: list[str]) -> None:
    for experiment in EXPERIMENTS:
        if not names or experiment.__name__ in names:
            typer.echo(f"{experiment.__name__:9}  {await experiment()}")


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1:]))
