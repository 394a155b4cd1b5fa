"""Start and stop of a measured server in a process group of its own."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.resources import with_worker_count
from app.settings import Settings
from benchmarks.payloads import Payload
from benchmarks.systems import SERVICE, System

TIMEOUT = 90.0
"""Seconds until a server must respond."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its base URL, and the session of all its processes."""

    base: str
    session: int


@contextmanager
def serving(system: System, model: Path, port: int, probe: Payload, environment: Mapping[str, str]) -> Iterator[Server]:
    """Run the server, from its first response until the end of the block; then its process group is killed."""
    variables = {"BENCH_MODEL": str(model), "BENCH_PORT": str(port), **environment}
    path = os.pathsep.join([str(system.root), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"VAE_MODEL": str(model), "VAE_PORT": str(port), "PYTHONPATH": path}
    base = f"http://127.0.0.1:{port}"
    merged = {**os.environ, **variables, **ours, **system.environment}
    with tempfile.TemporaryFile() as log:
        _wait_until_free(base)
        process = subprocess.Popen(  # noqa: S603  # a fixed command
            system.command,
            cwd=system.root,
            env=merged,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            if not _waits_for_response(base, probe, process):
                log.seek(0)
                raise RuntimeError(f"{system.name} did not answer: {log.read()[-2000:].decode(errors='replace')}")
            if system.package == SERVICE:
                settings = Settings(workers=int(merged.get("VAE_WORKERS", 0)))
                _wait_for_workers(base, with_worker_count(settings).workers)
            yield Server(base, process.pid)
        finally:
            _stop(process)
            _wait_until_free(base)


def _waits_for_response(base: str, probe: Payload, process: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        try:
            if ask(base, probe).status_code == httpx.codes.OK:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False


def _wait_for_workers(base: str, workers: int) -> None:
    """Wait until all workers of the service are ready, because a warm-up takes the cores from the others."""
    end = time.monotonic() + TIMEOUT
    while f"\nvae_workers {workers}.0\n" not in httpx.get(f"{base}/metrics", timeout=5).text:
        if time.monotonic() > end:
            raise RuntimeError(f"{workers} workers are not ready")
        time.sleep(0.2)


def ask(base: str, payload: Payload) -> httpx.Response:
    """Send one request."""
    headers = {"content-type": payload.media, "accept": payload.accept, **payload.headers}
    return httpx.post(base + payload.path, content=payload.body, headers=headers, timeout=30)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Terminate the server, and kill what is left of its process group."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_free(base: str) -> None:
    for _ in range(100):
        if not _responds(base):
            return
        time.sleep(0.2)
    raise RuntimeError(f"a server still responds on {base}")


def _responds(base: str) -> bool:
    try:
        httpx.get(base, timeout=5)
    except httpx.TransportError:
        return False
    return True
