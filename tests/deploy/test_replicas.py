"""Three replicas behind the proxy are killed, stopped, scaled and replaced by another model under load.

No request may be lost or refused, and every response is right to the byte.
"""

import asyncio
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compose import Project, inspect, run, run_in
from tests.support.traffic import SHIPPED, Known, Traffic, learn, learn_again

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.usefixtures("clean")]

AFTERWARDS = 500
"""Requests that are still sent after the event."""

RELOADED = 60
"""Seconds after which each replica must serve the reloaded model."""


async def test_no_request_is_lost_or_refused_while_replicas_come_and_go(port, another_model, table):
    project = Project("deploy/scale.yml", port=port)
    project.up("--scale", "app=3")
    known = await learn(project.url)

    async def during(name: str, event: Callable[[], str], *models: Known) -> None:
        async with Traffic(project.url, known, *models) as traffic:
            seen = await asyncio.to_thread(event)
            await traffic.wait_for(AFTERWARDS)
        table.add(name, traffic.tally, seen)
        assert not traffic.tally.refused

    await during("3 replicas, no event", lambda: "")
    await during("one killed by SIGKILL", lambda: kill(project))
    await during("one stopped", lambda: stop(project))
    await during("up to 3 again", lambda: scale(project, 3))
    await during("up to 5", lambda: scale(project, 5))
    await during("down to 2", lambda: scale(project, 2))
    other = await responses_of(another_model, known, port)
    await during("another model rolled out", lambda: roll_out(project, another_model), other)
    await during("the first again, by SIGHUP", lambda: reload(project, another_model), other)


async def responses_of(folder: Path, known: Known, port: int) -> Known:
    """The responses of the model in a folder, by a container of its own."""
    mount = ("--volume", f"{folder}:/models/served:ro", "--env", "VAE_MODEL=/models/served")
    same = ("--env", "VAE_BATCH_INVARIANT=true", "--env", "VAE_THREADS=1")
    container = run(
        "docker", "run", "--detach", *mount, *same, "--publish", f"127.0.0.1:{port + 1}:8000", "vae-service"
    )
    try:
        wait_until_healthy(container)
        return await learn_again(f"http://127.0.0.1:{port + 1}", known)
    finally:
        run("docker", "rm", "--force", container)


def wait_until_healthy(container: str) -> None:
    while inspect(container)["State"]["Health"]["Status"] != "healthy":
        time.sleep(0.5)


def kill(project: Project) -> str:
    """Kill a replica, as a crash would. Docker does not restart what `docker kill` ended."""
    victim = project.containers()[0]
    run("docker", "kill", "--signal", "KILL", victim)
    return f"exit code {run('docker', 'wait', victim)}, {len(project.containers())} left"


def stop(project: Project) -> str:
    """Stop a replica, as a reboot of the host or an operator would."""
    victim = project.containers()[0]
    run("docker", "stop", victim)
    return f"exit code {inspect(victim)['State']['ExitCode']}, {len(project.containers())} left"


def scale(project: Project, replicas: int) -> str:
    """Start or stop replicas until there are this many."""
    project.up("--scale", f"app={replicas}", "--no-recreate")
    return f"{len(project.containers())} replicas"


def roll_out(project: Project, folder: Path) -> str:
    """Start replicas with the new model beside the old ones, and stop the old ones once all are healthy."""
    old = project.containers()
    project.up("--scale", f"app={2 * len(old)}", "--no-recreate", VAE_MODEL_FOLDER=str(folder))
    for container in old:
        run("docker", "stop", container)
        run("docker", "rm", container)
    return f"{len(old)} replaced by {len(project.containers())}"


def reload(project: Project, folder: Path) -> str:
    """Put the shipped model into the mounted folder, and send SIGHUP to each replica."""
    for file in ("metrics.json", "model.safetensors"):
        copy = shutil.copy(SHIPPED / file, folder / "new")
        Path(copy).rename(folder / file)
    project("kill", "--signal", "HUP", "app")
    expected = hashlib.sha256((SHIPPED / "model.safetensors").read_bytes()).hexdigest()[:12]
    deadline = time.monotonic() + RELOADED
    while (served := {digest_served_by(container) for container in project.containers()}) != {expected}:
        assert time.monotonic() < deadline, f"expected all replicas to serve {expected}, got {served}"
        time.sleep(0.5)
    return f"{len(project.containers())} replicas serve {expected}"


def digest_served_by(container: str) -> str:
    """The first digits of the digest of the weights that a replica serves."""
    code = "import json, urllib.request as u; print(json.load(u.urlopen('http://127.0.0.1:8000/model'))['digest'][:12])"
    return run_in(container, "python", "-c", code)
