"""A server of its own process group, for as long as it is measured."""

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
from benchmarks.contestants import SERVICE, Contestant
from benchmarks.payloads import Payload

PATIENCE = 90.0
"""Seconds until a server must answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its base URL, and the session of all its processes."""

    base: str
    session: int


@contextmanager
def serving(
    contestant: Contestant, model: Path, port: int, probe: Payload, environment: Mapping[str, str]
) -> Iterator[Server]:
    """The server, once it answers the probe; afterwards its whole group is ended."""
    told = {"BENCH_MODEL": str(model), "BENCH_PORT": str(port), **environment}
    path = os.pathsep.join([str(contestant.root), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"VAE_MODEL": str(model), "VAE_PORT": str(port), "PYTHONPATH": path}
    base = f"http://127.0.0.1:{port}"
    variables = {**os.environ, **told, **ours, **contestant.environment}
    with tempfile.TemporaryFile() as log:
        _wait_for_silence(base)
        process = subprocess.Popen(  # noqa: S603  # our own words
            contestant.command,
            cwd=contestant.root,
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            if not _answers(base, probe, process):
                log.seek(0)
                raise RuntimeError(f"{contestant.name} did not answer: {log.read()[-2000:].decode(errors='replace')}")
            if contestant.package == SERVICE:
                settings = Settings(workers=int(variables.get("VAE_WORKERS", 0)))
                _await_all_workers(base, with_worker_count(settings).workers)
            yield Server(base, process.pid)
        finally:
            _end(process)
            _wait_for_silence(base)


def _answers(base: str, probe: Payload, process: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            if ask(base, probe).status_code == httpx.codes.OK:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False


def _await_all_workers(base: str, workers: int) -> None:
    """Wait until so many workers of the service are warm: who still warms up takes the cores from those who answer."""
    end = time.monotonic() + PATIENCE
    while f"\nvae_workers {workers}.0\n" not in httpx.get(f"{base}/metrics", timeout=5).text:
        if time.monotonic() > end:
            raise RuntimeError(f"{workers} workers did not get warm")
        time.sleep(0.2)


def ask(base: str, payload: Payload) -> httpx.Response:
    """One answer."""
    headers = {"content-type": payload.media, "accept": payload.accept}
    return httpx.post(base + payload.path, content=payload.body, headers=headers, timeout=30)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Politely, then with force: whatever the server has started goes with it."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for_silence(base: str) -> None:
    for _ in range(100):
        if not _speaks(base):
            return
        time.sleep(0.2)
    raise RuntimeError(f"somebody still answers on {base}")


def _speaks(base: str) -> bool:
    try:
        httpx.get(base, timeout=5)
    except httpx.TransportError:
        return False
    return True
