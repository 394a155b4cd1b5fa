"""Count the functions of app/ that one `POST /encode` of one PNG passes: python -m benchmarks.call_count [--list].

A request is sent to the shipped model over a real socket, in one process, after some warm-up requests. The profiler of
Python is on from the first byte on the connection to the last byte of the response. `--list` prints the names of the
functions by module, with the number of calls. The second line counts the functions of all libraries too, with those
of the asyncio loop and of the client. Comprehensions and generator expressions do not count as functions.
"""

import asyncio
import io
import sys
import threading
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from uvicorn.server import ServerState

from app.http.protocol.connection import HttpConnection
from app.main import create_app
from app.observability.logs import configure_logging
from app.server.process import configure_process
from app.settings import Settings

APP = str(Path(__file__).parent.parent / "app") + "/"
BENCHMARKS = str(Path(__file__).parent) + "/"
COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
WARM_UP = 30

Calls = Counter[CodeType]


class Profiler:
    """Counts the calls of Python functions while it is on, except those of benchmarks/."""

    def __init__(self) -> None:
        self.calls: Calls = Counter()

    def __enter__(self) -> Calls:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self.calls

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name not in COMPREHENSIONS and not code.co_filename.startswith(BENCHMARKS):
            self.calls[code] += 1


async def measure(body: bytes) -> Calls:
    """The calls of one request, after `WARM_UP` others on the same connection."""
    settings = Settings(threads=1, log_level="info")
    configure_logging(settings)
    configure_process(settings)
    app = create_app(settings)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
    config.load()
    loop = asyncio.get_running_loop()
    async with app.router.lifespan_context(app):
        state = ServerState()
        listener = await loop.create_server(lambda: HttpConnection(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        while not await exchange(reader, writer, b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        request = encode_request(body)
        for _ in range(WARM_UP):
            await exchange(reader, writer, request)
            await asyncio.sleep(0.01)
        profiler = Profiler()
        with profiler:
            succeeded = await exchange(reader, writer, request)
            await asyncio.sleep(0.01)  # what follows the last byte: metrics and the log line
        writer.close()
        listener.close()
    if not succeeded:
        raise RuntimeError("POST /encode did not succeed")
    return profiler.calls


def encode_request(body: bytes) -> bytes:
    """The bytes of a request as HTTP clients send it."""
    head = (
        b"POST /encode HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        b"User-Agent: call-count\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    )
    return head % len(body) + body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    """Send a request and read its response; whether its status is 200."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    await reader.readexactly(int(fields[b"content-length"]))
    return b" 200 " in head.partition(b"\r\n")[0]


def png() -> bytes:
    """A grey image of the size that the shipped model takes, as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(28 * 28, dtype=np.uint32).reshape(28, 28).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def report(calls: Calls, *, names: bool) -> None:
    """Print the counts, and the names of the functions by module."""
    modules: dict[str, list[tuple[str, int]]] = {}
    ours = {code: count for code, count in calls.items() if code.co_filename.startswith(APP)}
    for code, count in ours.items():
        modules.setdefault(code.co_filename.removeprefix(APP), []).append((code.co_qualname, count))
    print(f"{len(ours)} functions in {len(modules)} modules of app/, {sum(ours.values())} calls")  # noqa: T201
    print(f"{sum(calls.values())} calls of Python functions in all, with those of libraries")  # noqa: T201
    for module, functions in sorted(modules.items()) if names else ():
        print(f"\n{module}")  # noqa: T201
        for name, count in functions:
            print(f"  {name}" + (f"  x{count}" if count > 1 else ""))  # noqa: T201


def main() -> None:
    """Measure and report."""
    parser = ArgumentParser(description="count the functions that one POST /encode passes")
    parser.add_argument("--list", action="store_true", help="print the names by module")
    options = parser.parse_args()
    report(asyncio.run(measure(png())), names=options.list)


if __name__ == "__main__":
    main()
