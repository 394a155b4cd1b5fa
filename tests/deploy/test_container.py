"""One container: health, restrictions, clients outside and inside, a stop under load, other models, and keys."""

import asyncio
import io
import json
import math
import time
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.compose import ROOT, Project, inspect, run, run_in
from tests.support.onnx_pairs import write_attention_pair
from tests.support.traffic import SHIPPED, Traffic, learn, learn_again

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.usefixtures("clean")]

NPY = {"accept": "application/x-npy"}

CLIENT = """
from vae_client import Client
with Client("http://app:8000") as vae:
    drawn = vae.sample(2, seed=1).images
    encoded, scored = vae.encode(drawn), vae.score(drawn, seed=1)
    print(encoded.mean.shape, vae.decode(encoded.mean).shape, vae.reconstruct(drawn).shape, len(scored.elbo))
"""


@pytest.fixture
def project(port: int) -> Project:
    running = Project(port=port)
    running.up()
    return running


def test_the_container_runs_without_privileges_on_a_read_only_file_system(project):
    (container,) = project.containers()
    record = inspect(container)
    user, host = record["Config"]["User"], record["HostConfig"]
    assert (user, host["ReadonlyRootfs"], host["CapDrop"]) == ("10001:10001", True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    status = dict(line.split(":\t", 1) for line in run_in(container, "cat", "/proc/1/status").splitlines())
    assert (status["Uid"].split()[0], int(status["CapBnd"], 16), status["NoNewPrivs"]) == ("10001", 0, "1")
    assert "Read-only file system" in run_in(container, "touch", "/service/file")


async def test_every_endpoint_answers_on_the_host(project):
    assert len(await learn(project.url)) == 10


def test_the_python_client_works_in_another_container(project):
    package = ("--volume", f"{ROOT / 'app/client'}:/client:ro", "--env", "PYTHONPATH=/client")
    command = ("docker", "run", "--rm", "--network", project.network, *package, "--entrypoint", "python", "vae-service")
    assert run(*command, "-c", CLIENT, check=False) == "(2, 32) (2, 28, 28, 1) (2, 28, 28, 1) 2"


async def test_a_stop_answers_the_accepted_requests_and_refuses_the_later_ones(project, table):
    """Requests go to the container itself: the host's published port accepts connections after the container is gone.

    Where a connection was closed as a request arrived, the log of the service shows whether it had been accepted.
    """
    (container,) = project.containers()
    known = await learn(project.url)
    address = inspect(container)["NetworkSettings"]["Networks"][project.network]["IPAddress"]
    async with Traffic(f"http://{address}:8000", known) as traffic:
        await asyncio.to_thread(project, "stop")
    accepted = {record["request_id"] for record in log(container) if record.get("status", 503) != 503}
    for request_id in traffic.tally.lost.keys() - accepted:
        traffic.tally.was_refused(request_id)
    code = inspect(container)["State"]["ExitCode"]
    table.add("stop under load", traffic.tally, f"exit code {code}")
    assert code == 0


def log(container: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("docker", "logs", container, check=False).splitlines()]


async def test_a_mounted_model_is_served(project, another_model):
    known = await learn(project.url)
    project.up(VAE_MODEL_FOLDER=str(another_model))
    other = await learn_again(project.url, known)
    assert all(other[request] != known[request] for request in known)


@pytest.mark.parametrize("kind", ["empty", "torn"])
def test_a_folder_without_a_usable_model_is_reported_and_the_container_is_never_healthy(port, scratch, kind):
    folder = scratch / kind
    folder.mkdir()
    if kind == "torn":
        (folder / "config.json").write_text((SHIPPED / "config.json").read_text())
        (folder / "model.safetensors").write_bytes((SHIPPED / "model.safetensors").read_bytes()[:100_000])
    project = Project(port=port)
    project("up", "--detach", "--no-build", "--force-recreate", VAE_MODEL_FOLDER=str(folder))
    (container,) = project("ps", "--all", "--quiet", "app").split()
    record = wait_for_restart(container)
    lines = run("docker", "logs", container, check=False).splitlines()
    assert record["State"]["Health"]["Status"] != "healthy"
    assert record["RestartCount"] > 0
    assert any(line.startswith("vae: /models/served") for line in lines)
    assert "Traceback" not in "".join(lines)


def wait_for_restart(container: str) -> Any:
    """The record of the container once it was restarted, or after a minute."""
    end = time.monotonic() + 60
    while not (record := inspect(container))["RestartCount"] and time.monotonic() < end:
        time.sleep(1)
    return record


def test_keys_of_a_secret_file_are_required_and_do_not_appear_in_the_environment(port, scratch):
    keys = scratch / "keys.txt"
    keys.write_text("one\ntwo\n")
    keys.chmod(0o644)
    project = Project("deploy/keys.yml", port=port, VAE_API_KEYS=str(keys))
    project.up("--force-recreate")
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer three"}, 401),
        ({"Authorization": "Bearer two"}, 200),
    ):
        assert httpx.get(f"{project.url}/model", headers=headers).status_code == status
    (container,) = project.containers()
    assert "two" not in json.dumps(inspect(container)["Config"]["Env"])


@pytest.mark.parametrize(("kind", "beyond"), [("diffusers", 200), ("pair", 413)])
def test_an_image_too_large_for_the_memory_of_the_container_is_computed_in_tiles_or_refused(
    port, scratch, kind, beyond
):
    folder = scratch / kind
    if kind == "diffusers":
        pytest.importorskip("tests.support.diffusers_models").write(folder, "kl")
    else:
        write_attention_pair(folder, maximum=4096)
    for file in folder.iterdir():
        file.chmod(0o644)  # diffusers writes weights that their owner alone can read
    project = Project(port=port, VAE_MODEL_FOLDER=str(folder), VAE_MEMORY="900m", VAE_WORKERS="1")
    project.up("--force-recreate")
    (container,) = project.containers()
    model = httpx.get(f"{project.url}/model").json()
    assert model["format"] == ("diffusers" if kind == "diffusers" else "onnx")
    whole = math.isqrt(min(model["image_sizes"]["largest_whole"].values())) // 8 * 8
    for side, expected in ((whole, 200), (2 * whole, beyond), (3200, 413)):
        for path in ("/encode", "/reconstruct"):
            answer = httpx.post(project.url + path, content=black(side), headers=NPY, timeout=60)
            assert answer.status_code == expected, (side, path, answer.text)
    state = inspect(container)
    assert (state["State"]["Status"], state["State"]["OOMKilled"], state["RestartCount"]) == ("running", False, 0)


def black(side: int) -> bytes:
    """A black square of so many pixels a side, as PNG."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()
