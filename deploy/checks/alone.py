"""One container: healthy, locked down, called from outside and inside, stopped under load, other models and keys."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
from compose import Project, inside, inspect, run
from report import Report
from traffic import Known, Traffic, learn, learn_again

from model.checkpoint import read_checkpoint, write_checkpoint

SHIPPED = Path(__file__).parents[2] / "model" / "checkpoints" / "mnist"

CALLER = """
from app.client import Client
with Client("http://app:8000") as vae:
    drawn = vae.sample(2, seed=1).images
    encoded, scored = vae.encode(drawn), vae.score(drawn, seed=1)
    print(encoded.mean.shape, vae.decode(encoded.mean).shape, vae.reconstruct(drawn).shape, len(scored.elbo))
"""


async def check(report: Report, port: int, scratch: Path) -> None:
    """Everything about one container."""
    project = Project(port=port)
    start = time.monotonic()
    project.up()
    report.fact("up --wait", f"healthy after {time.monotonic() - start:.1f} s", good=True)
    locked_down(report, *project.containers())
    known = await learn(project.url)
    report.fact("called from the host", f"{len(known)} questions about every endpoint", good=True)
    called_from_a_container(report, project)
    await stopped_under_load(report, project, known)
    await other_model(report, project, known, scratch)
    wrong_models(report, project, scratch)
    with_keys(report, port, scratch)


def locked_down(report: Report, container: str) -> None:
    """User, root file system, capabilities and privileges: as Docker tells them, and as the kernel does."""
    found = inspect(container)
    user, host = found["Config"]["User"], found["HostConfig"]
    told = f"user {user}, read-only root {host['ReadonlyRootfs']}, dropped {host['CapDrop']}, {host['SecurityOpt']}"
    good = user == "10001:10001" and host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
    report.fact("docker inspect", told, good=good and host["SecurityOpt"] == ["no-new-privileges:true"])
    status = dict(line.split(":\t", 1) for line in inside(container, "cat", "/proc/1/status").splitlines())
    refusal = inside(container, "touch", "/service/file")
    seen = f"uid {status['Uid'].split()[0]}, CapBnd {int(status['CapBnd'], 16)}, NoNewPrivs {status['NoNewPrivs']}"
    good = status["Uid"].startswith("10001") and not int(status["CapBnd"], 16) and status["NoNewPrivs"] == "1"
    report.fact("inside of it", f"{seen}, {refusal}", good=good and "Read-only file system" in refusal)


def called_from_a_container(report: Report, project: Project) -> None:
    """The Python client in another container of the same network."""
    command = ("docker", "run", "--rm", "--network", project.network, "--entrypoint", "python", "vae-service")
    seen = run(*command, "-c", CALLER, check=False)
    report.fact("called from a container", seen, good=seen == "(2, 32) (2, 28, 28, 1) (2, 28, 28, 1) 2")


async def stopped_under_load(report: Report, project: Project, known: Known) -> None:
    """`docker compose stop`: what was accepted is answered, what comes later is refused.

    The callers go to the container itself: what Docker publishes on the host goes on accepting connections for a
    while after the container is gone, only to reset them. Where a connection was closed just as a request came along,
    the service's log tells whether it had been accepted.
    """
    (container,) = project.containers()
    address = inspect(container)["NetworkSettings"]["Networks"][project.network]["IPAddress"]
    async with Traffic(f"http://{address}:8000", known) as traffic:
        await asyncio.to_thread(project, "stop")
    accepted = {line["request_id"] for line in log(container) if line.get("status", 503) != 503}
    for request_id in traffic.tally.lost.keys() - accepted:
        traffic.tally.never_entered(request_id)
    code = inspect(container)["State"]["ExitCode"]
    report.traffic("stop under load", traffic.tally, f"exit code {code}", refusals=True)
    report.fact("stopped by itself", f"exit code {code}", good=code == 0)


def log(container: str) -> list[dict[str, Any]]:
    """The lines that the service has logged."""
    return [json.loads(line) for line in run("docker", "logs", container, check=False).splitlines()]


async def other_model(report: Report, project: Project, known: Known, scratch: Path) -> None:
    """A user's own checkpoint: one folder, one variable."""
    folder = another_model(scratch)
    project.up(VAE_MODEL_FOLDER=str(folder))
    other = await learn_again(project.url, known)
    changed = sum(other[question] != known[question] for question in known)
    seen = f"{model_at(project.url)}: {changed} of {len(known)} answers differ from the shipped model's"
    report.fact("own model mounted", seen, good=changed == len(known))


def model_at(url: str) -> str:
    """The name of the model that is served."""
    name: str = httpx.get(f"{url}/model").json()["model"]
    return name


def another_model(scratch: Path) -> Path:
    """The shipped model with every weight a little larger."""
    folder = scratch / "another"
    if not folder.exists():
        shipped = read_checkpoint(SHIPPED)
        weights = {name: weight * 1.05 for name, weight in shipped.vae.state_dict().items()}
        write_checkpoint(folder, shipped.vae.config, weights)
    return folder


def wrong_models(report: Report, project: Project, scratch: Path) -> None:
    """A folder that holds no usable model: the log says why, the container never turns healthy."""
    empty, torn = scratch / "empty", scratch / "torn"
    for folder in (empty, torn):
        folder.mkdir()
    (torn / "config.json").write_text((SHIPPED / "config.json").read_text())
    (torn / "model.safetensors").write_bytes((SHIPPED / "model.safetensors").read_bytes()[:100_000])
    for folder in (empty, torn):
        project("up", "--detach", "--no-build", "--force-recreate", VAE_MODEL_FOLDER=str(folder))
        (container,) = project("ps", "--all", "--quiet", "app").split()
        found = restarted(container)
        health, restarts = found["State"]["Health"]["Status"], found["RestartCount"]
        lines = run("docker", "logs", container, check=False).splitlines()
        line = next((line for line in reversed(lines) if line.startswith("vae: ")), "nothing said")
        seen = f"{health}, restarted {restarts} times: {line}"
        good = health != "healthy" and restarts > 0 and "/models/served" in line and "Traceback" not in "".join(lines)
        report.fact(f"{folder.name} model refused", seen, good=good)


def restarted(container: str) -> Any:
    """The container as Docker sees it once it has failed and was started again, or after a minute."""
    end = time.monotonic() + 60
    while not (found := inspect(container))["RestartCount"] and time.monotonic() < end:
        time.sleep(1)
    return found


def with_keys(report: Report, port: int, scratch: Path) -> None:
    """A secret file: callers without a key are refused, the probes stay open."""
    keys = scratch / "keys.txt"
    keys.write_text("one\ntwo\n")
    keys.chmod(0o644)
    project = Project("deploy/keys.yml", port=port, VAE_API_KEYS=str(keys))
    project.up("--force-recreate")
    headers = {"none": {}, "wrong": {"Authorization": "Bearer three"}, "right": {"Authorization": "Bearer two"}}
    seen = {name: httpx.get(f"{project.url}/model", headers=value).status_code for name, value in headers.items()}
    (container,) = project.containers()
    hidden = "two" not in json.dumps(inspect(container)["Config"]["Env"])
    report.fact("key as a secret file", seen, good=seen == {"none": 401, "wrong": 401, "right": 200} and hidden)
