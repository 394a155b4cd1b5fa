"""The floor of the hot path: encode, decode and reconstruct made of the parts of the service, in one file.

Uvicorn with httptools and uvloop, the PNG codec, the ONNX graphs and orjson; a batch for each turn of the event loop.
`BENCH_FEATURES` is `all` or a comma-separated list of what every request of the service has besides: `id`, `deadline`,
`limits`, `metrics`, `log`, `timing`. The floor has no other body or query, no fairness, no disconnect detection and no
drain. It shows what the layers around the work may cost, and is no server to use.

BENCH_MODEL=model/checkpoints/mnist BENCH_PORT=8091 BENCH_FEATURES=all python -m benchmarks.peers.floor
"""

import asyncio
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import torch
import uvicorn
from prometheus_client import Counter, Histogram

from app.batching.rows import RowBatch
from app.codecs.png import read_png, write_png
from app.runtimes.base import CompiledModel, Target
from app.runtimes.selection import compile_model
from app.settings import Settings
from benchmarks.peers.work import model_folder, port
from model.checkpoint import read_checkpoint
from model.formats.native import native_model

MAX_BATCH = 16
MAX_QUEUED = 8192
MAX_BODY_BYTES = 2**25
DEADLINE_SECONDS = 30
FEATURES = ("id", "deadline", "limits", "metrics", "log", "timing")


class Operation:
    """One operation: how a body becomes rows, how rows are computed, how results become a body."""

    def __init__(self, name: str, compiled: CompiledModel, identity: str) -> None:
        spec = compiled.model.spec
        self._name, self._compiled, self._identity = name, compiled, identity
        self._image_shape, self._latent_shape = spec.image_shape, spec.latent_shape
        self.media = b"application/json" if name == "encode" else b"image/png"
        self.read: Callable[[bytes], Any] = self._read_latent if name == "decode" else self._read_image
        self.write: Callable[[Sequence[Any]], bytes] = self._write_latent if name == "encode" else self._write_image

    def compute(self, inputs: Sequence[np.ndarray]) -> list[Any]:
        """Compute a batch: a list of the columns of each row."""
        columns = [np.stack(inputs)]
        if self._name == "reconstruct":
            columns.append(np.zeros((len(inputs), *self._latent_shape), np.float32))
        found = self._compiled.run(self._name, RowBatch(tuple(columns)), deterministic=False).columns
        return list(zip(*found, strict=True))

    def _read_image(self, body: bytes) -> np.ndarray:
        pixels = read_png(body, self._image_shape)
        if pixels is None:
            raise ValueError("not a plain PNG")
        return pixels

    def _read_latent(self, body: bytes) -> np.ndarray:
        return np.array(orjson.loads(body)["latents"][0], np.float32)

    def _write_latent(self, columns: Sequence[np.ndarray]) -> bytes:
        mean, logvar = columns
        content = {"latents": [{"mean": mean, "logvar": logvar}], "shape": self._latent_shape, "model": self._identity}
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

    def _write_image(self, columns: Sequence[np.ndarray]) -> bytes:
        return write_png(columns[0])


class Metrics:
    """As many observations for each request as the service makes."""

    def __init__(self) -> None:
        self.requests = Counter("requests", "Requests.", ["path", "status"])
        self.seconds = Histogram("seconds", "Seconds of a request.", ["path"])
        self.stages = {
            name: Histogram(f"{name}_seconds", "Seconds of a stage.") for name in ("queue", "infer", "codec")
        }
        self.batch_size = Histogram("batch_size", "Rows of a batch.", buckets=(1, 2, 4, 8, 16))
        self.batches = Counter("batches", "Batches.")


class Call:
    """One request on its way."""

    __slots__ = ("codec", "future", "infer", "operation", "queue", "row", "started", "waiting")

    def __init__(self, operation: Operation, row: np.ndarray, started: float, future: "asyncio.Future[Any]") -> None:
        self.operation, self.row, self.started, self.future = operation, row, started, future
        self.waiting = time.monotonic()
        self.codec, self.queue, self.infer = self.waiting - started, 0.0, 0.0


class Floor:
    """The ASGI application."""

    def __init__(self) -> None:
        chosen = os.environ.get("BENCH_FEATURES", "all")
        self._on = set(FEATURES if chosen == "all" else chosen.split(","))
        torch.set_num_threads(1)
        checkpoint = read_checkpoint(model_folder())
        compiled = compile_model(native_model(checkpoint), Settings(), Target(torch.device("cpu")))
        names = ("encode", "decode", "reconstruct")
        self._operations = {f"/{name}": Operation(name, compiled, checkpoint.identity) for name in names}
        self._identity = checkpoint.identity.encode()
        self._metrics = Metrics()
        self._waiting: list[Call] = []
        self._lines: list[bytes] = []
        self._log = os.open(os.devnull, os.O_WRONLY)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        started = time.monotonic()
        if "limits" in self._on:
            self._require_room(dict(scope["headers"]))
        body = await _read(receive)
        operation = self._operations[scope["path"]]
        call = Call(operation, operation.read(body), started, asyncio.get_running_loop().create_future())
        answer = operation.write(await self._compute(call))
        headers = [
            (b"content-type", operation.media),
            (b"content-length", b"%d" % len(answer)),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            (b"x-model", self._identity),
        ]
        request_id = b"%016x" % random.getrandbits(64)  # no secret
        if "id" in self._on:
            headers.append((b"x-request-id", request_id))
        if "timing" in self._on:
            headers.append((b"server-timing", b"queue;dur=%.3f, infer;dur=%.3f, codec;dur=%.3f" % _stages(call)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        self._record(scope["path"], call, request_id, len(body))

    def _require_room(self, headers: dict[bytes, bytes]) -> None:
        if len(self._waiting) > MAX_QUEUED or int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
            raise RuntimeError("no room")

    async def _compute(self, call: Call) -> Any:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(DEADLINE_SECONDS, _expire, call.future) if "deadline" in self._on else None
        if not self._waiting:
            loop.call_soon(self._turn)
        self._waiting.append(call)
        columns = await call.future
        if timer is not None:
            timer.cancel()
        return columns

    def _turn(self) -> None:
        """Compute what has arrived in this turn of the event loop."""
        waiting, self._waiting = self._waiting, []
        for operation in dict.fromkeys(call.operation for call in waiting):
            calls = [call for call in waiting if call.operation is operation]
            for start in range(0, len(calls), MAX_BATCH):
                self._run(operation, calls[start : start + MAX_BATCH])

    def _run(self, operation: Operation, calls: Sequence[Call]) -> None:
        began = time.monotonic()
        found = operation.compute([call.row for call in calls])
        ended = time.monotonic()
        if "metrics" in self._on:
            self._metrics.batch_size.observe(len(calls))
            self._metrics.batches.inc()
        for call, columns in zip(calls, found, strict=True):
            call.queue, call.infer = began - call.waiting, ended - began
            if not call.future.done():
                call.future.set_result(columns)

    def _record(self, path: str, call: Call, request_id: bytes, received: int) -> None:
        seconds = time.monotonic() - call.started
        if "metrics" in self._on:
            metrics = self._metrics
            metrics.requests.labels(path, "200").inc()
            metrics.seconds.labels(path).observe(seconds)
            for stage, spent in (("queue", call.queue), ("infer", call.infer), ("codec", call.codec)):
                metrics.stages[stage].observe(spent)
        if "log" in self._on:
            queue, infer, codec = _stages(call)
            fields = {
                "time": time.time(),
                "level": "INFO",
                "message": f"POST {path} 200",
                "request_id": request_id.decode(),
                "ms": round(seconds * 1000, 3),
                "bytes_in": received,
                "queue_ms": queue,
                "infer_ms": infer,
                "codec_ms": codec,
            }
            if not self._lines:
                asyncio.get_running_loop().call_soon(self._flush)
            self._lines.append(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        os.write(self._log, b"".join(lines))


def _stages(call: Call) -> tuple[float, float, float]:
    return call.queue * 1000, call.infer * 1000, call.codec * 1000


def _expire(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


async def _read(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _lifespan(receive: Any, send: Any) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


def _serve() -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port()))
    listener.listen(2048)
    config = uvicorn.Config(Floor(), http="httptools", loop="uvloop", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_serve) for _ in range(int(os.environ.get("BENCH_PROCESSES", "2")))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
