"""Three replicas behind the proxy: killed, stopped, scaled and replaced by another model while traffic flows."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from alone import SHIPPED, another_model
from compose import Project, inside, inspect, run
from report import Report
from traffic import Known, Traffic, learn, learn_again

AFTERWARDS = 500
"""Requests that are still sent after the event."""


async def check(report: Report, port: int, scratch: Path) -> None:
    """Each event under load: nothing is lost, nothing is refused, every answer is right to the byte."""
    project = Project("deploy/scale.yml", port=port)
    project.up("--scale", "app=3")
    known = await learn(project.url)

    async def during(name: str, event: Callable[[], str], *models: Known) -> None:
        async with Traffic(project.url, known, *models) as traffic:
            seen = await asyncio.to_thread(event)
            await traffic.flow(AFTERWARDS)
        report.traffic(name, traffic.tally, seen)

    await during("3 replicas, nothing happens", lambda: "")
    await during("one killed by SIGKILL", lambda: kill(project))
    await during("one stopped", lambda: stop(project))
    await during("up to 3 again", lambda: scale(project, 3))
    await during("up to 5", lambda: scale(project, 5))
    await during("down to 2", lambda: scale(project, 2))
    folder = another_model(scratch)
    other = await answers_of(folder, known, port)
    await during("another model rolled out", lambda: roll_out(project, folder), other)
    await during("the first again, by SIGHUP", lambda: reload(project, folder), other)


async def answers_of(folder: Path, known: Known, port: int) -> Known:
    """What the model in the folder answers, from a container of its own."""
    mount = ("--volume", f"{folder}:/models/served:ro", "--env", "VAE_MODEL=/models/served")
    same = ("--env", "VAE_BATCH_INVARIANT=true", "--env", "VAE_THREADS=1")
    container = run(
        "docker", "run", "--detach", *mount, *same, "--publish", f"127.0.0.1:{port + 1}:8000", "vae-service"
    )
    try:
        healthy(container)
        return await learn_again(f"http://127.0.0.1:{port + 1}", known)
    finally:
        run("docker", "rm", "--force", container)


def healthy(container: str) -> None:
    """Wait until Docker calls the container healthy."""
    while inspect(container)["State"]["Health"]["Status"] != "healthy":
        time.sleep(0.5)


def kill(project: Project) -> str:
    """What a crash looks like. Docker does not restart what `docker kill` ended."""
    victim = project.containers()[0]
    run("docker", "kill", "--signal", "KILL", victim)
    return f"exit code {run('docker', 'wait', victim)}, {len(project.containers())} left"


def stop(project: Project) -> str:
    """What a reboot of the host or an operator does."""
    victim = project.containers()[0]
    run("docker", "stop", victim)
    return f"exit code {inspect(victim)['State']['ExitCode']}, {len(project.containers())} left"


def scale(project: Project, replicas: int) -> str:
    """More or fewer replicas of what runs."""
    project.up("--scale", f"app={replicas}", "--no-recreate")
    return f"{len(project.containers())} replicas"


def roll_out(project: Project, folder: Path) -> str:
    """Replicas with the new model beside those with the old; when all are healthy, the old ones are stopped."""
    old = project.containers()
    project.up("--scale", f"app={2 * len(old)}", "--no-recreate", VAE_MODEL_FOLDER=str(folder))
    for container in old:
        run("docker", "stop", container)
        run("docker", "rm", container)
    return f"{len(old)} replaced by {len(project.containers())}"


def reload(project: Project, folder: Path) -> str:
    """The shipped model put into the mounted folder, and each replica told to load it anew."""
    for file in ("metrics.json", "model.safetensors"):
        copy = shutil.copy(SHIPPED / file, folder / "new")
        Path(copy).rename(folder / file)
    project("kill", "--signal", "HUP", "app")
    time.sleep(3)
    names = {model_in(container) for container in project.containers()}
    return f"{len(project.containers())} replicas serve {', '.join(names)}"


def model_in(container: str) -> str:
    """The digest of the weights that a replica serves now, shortened."""
    code = "import json, urllib.request as u; print(json.load(u.urlopen('http://127.0.0.1:8000/model'))['digest'][:12])"
    return inside(container, "python", "-c", code)
