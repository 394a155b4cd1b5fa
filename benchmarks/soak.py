"""Whether the service grows: `python -m benchmarks.soak`, some minutes.

    memory     resident memory after 20,000 requests and after 200,000, every endpoint in turn
    mutations  100,000 bodies of PNG, JPEG, multipart, .npy and JSON, cut short and changed: no 5xx, no growth

`python -m benchmarks.soak memory 2000 20000` and `python -m benchmarks.soak mutations 1000` are shorter.
"""

import asyncio
import base64
import io
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import typer
from PIL import Image

from benchmarks.wire import Line, Service, get, post, serving, told

CALLERS = 16
NPY, JSON, MULTIPART = "application/x-npy", "application/json", "multipart/form-data; boundary=cut"


def picture(form: str, size: int = 28, mode: str = "L") -> bytes:
    """A picture of noise."""
    file = io.BytesIO()
    shape = (size, size, len(mode)) if len(mode) > 1 else (size, size)
    Image.fromarray(np.random.default_rng(size).integers(0, 256, shape, np.uint8), mode).save(file, form)
    return file.getvalue()


def array(values: np.ndarray) -> bytes:
    """An .npy file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def multipart(*files: bytes) -> bytes:
    """A form with files named images."""
    head = b'--cut\r\nContent-Disposition: form-data; name="images"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--cut--\r\n"


PNG = picture("PNG")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
LATENTS = np.random.default_rng(0).standard_normal((2, 32)).round(4)
BODIES: list[tuple[str, bytes]] = [
    ("image/png", PNG),
    ("image/png", picture("PNG", 90, "RGBA")),
    ("image/jpeg", picture("JPEG", 40, "RGB")),
    (MULTIPART, multipart(PNG, picture("JPEG", 33))),
    (NPY, array(PIXELS)),
    (JSON, json.dumps({"images": [base64.b64encode(PNG).decode()] * 2}).encode()),
]
CODES: list[tuple[str, bytes]] = [(JSON, json.dumps({"latents": LATENTS.tolist()}).encode())]
CODES.append((NPY, array(LATENTS.astype(np.float32))))
ASKS = [
    *(post(path, kind, body) for path in ("/encode", "/reconstruct", "/score") for kind, body in BODIES),
    *(post("/decode", kind, body) for kind, body in CODES),
    *(get(path) for path in ("/sample?n=4", "/model", "/encode", "/nowhere")),
]


def mutated(body: bytes, chance: random.Random) -> bytes:
    """A body that is cut short, or in which bytes are changed, left out, doubled or put in."""
    found = bytearray(body)
    if chance.random() < 0.3:
        return bytes(found[: chance.randrange(len(found))])
    for _ in range(chance.choice([1, 1, 2, 4, 16, 64])):
        place = chance.randrange(len(found)) if found else 0
        length = chance.choice([1, 1, 1, 2, 8, 64])
        match chance.randrange(5):
            case 0:
                found[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del found[place : place + length]
            case 2:
                found[place:place] = found[place : place + length]
            case 3:
                found[place:place] = chance.randbytes(length)
            case _ if found:
                found[place] ^= 1 << chance.randrange(8)
    return bytes(found)


def mutations(count: int) -> Iterator[bytes]:
    """So many requests with a mutated body, the same ones each time."""
    for number in range(count):
        chance = random.Random(number)  # noqa: S311  # chances, not secrets
        path = chance.choice(["/encode", "/encode", "/reconstruct", "/score", "/decode"])
        kind, body = chance.choice(CODES if path == "/decode" else BODIES)
        yield post(path, kind, mutated(body, chance))


async def ask_all(service: Service, requests: Iterator[bytes], counts: Counter[str]) -> None:
    """Send all requests, on a few lines at once."""

    async def caller() -> None:
        line = Line(service.port)
        for request in requests:
            status = (await line.ask(request)).status
            counts["lost" if status == 0 else str(status)] += 1
        line.cut()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def memory(few: int = 20_000, many: int = 200_000) -> None:
    """Resident memory after a few requests, and after many."""
    async with serving() as it:
        counts = Counter[str]()
        sizes = [await it.memory()]
        for number in (few, many - few):
            await ask_all(it, (ASKS[index % len(ASKS)] for index in range(number)), counts)
            sizes.append(await it.memory())
            typer.echo(f"memory     after {sum(counts.values()):,} requests {sizes[-1] / 2**20:.1f} MiB")
        left = await it.metrics()
    grown = (sizes[-1] - sizes[-2]) / 2**20
    typer.echo(
        f"           at first {sizes[0] / 2**20:.1f} MiB; grown {grown:+.1f} MiB between the two; {told(counts)}"
    )
    typer.echo(
        f"           left behind: queue {left['vae_queue_items']:.0f}, open files {left['process_open_fds']:.0f}"
    )


async def mutation(count: int = 100_000) -> None:
    """Mutated bodies: what they are answered, and what the service has grown between the first tenth and the end."""
    async with serving() as it:
        counts = Counter[str]()
        requests = mutations(count)
        sizes = []
        for number in (count // 10, count - count // 10):
            await ask_all(it, (request for _, request in zip(range(number), requests, strict=False)), counts)
            sizes.append(await it.memory())
        failures = sum(number for status, number in counts.items() if status.startswith("5") or status == "lost")
        typer.echo(f"mutations  {sum(counts.values()):,} bodies: {told(counts)}; 5xx or lost: {failures}")
        first, last = (size / 2**20 for size in sizes)
        typer.echo(f"           {first:.1f} MiB after a tenth, {last:.1f} MiB at the end: {last - first:+.1f}")
        loggers = Counter(json.loads(line)["logger"] for line in it.log if line.startswith(b"{"))
        typer.echo(f"           lines of a warning or worse in the log: {told(loggers) or 'none'}")


async def _run(name: str = "", *numbers: str) -> None:
    if name in ("", "memory"):
        await memory(*map(int, numbers))
    if name in ("", "mutations"):
        await mutation(*map(int, numbers))


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
