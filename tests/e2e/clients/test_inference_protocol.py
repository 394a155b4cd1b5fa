"""Clients of others, unmodified, against a real service: tritonclient, KServe's client and MLServer."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.codecs.images import write_npy
from app.codecs.png import write_png
from tests.support.live_server import ROOT, Service, serving

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

PIXELS = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)
LATENTS = [[0.5, -1, 2, 0.25]]
SCRIPTS = Path(__file__).parent


@pytest.fixture(scope="module")
async def service(digits_model) -> AsyncIterator[Service]:
    async with serving(digits_model) as started:
        yield started


async def calls_of(client: str, service: Service) -> dict[str, Any]:
    """What came back from each call of the script of a client."""
    png = write_png(PIXELS[0].transpose(2, 0, 1)).hex()
    return await lines_of(client, f"{client}_calls.py", f"127.0.0.1:{service.port}", png)


async def lines_of(client: str, script: str, *arguments: str) -> dict[str, Any]:
    """What a script prints, which runs in the environment of a client."""
    python = ROOT / ".venv" / "clients" / client / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{client} is not installed; make clients does that")
    pipe = asyncio.subprocess.PIPE
    command = [str(python), str(SCRIPTS / script), *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return dict(json.loads(line) for line in out.decode().splitlines() if line.startswith("["))


async def native(service: Service, path: str, accept: str = "application/json", **body: Any) -> Any:
    """The answer of the native API, as JSON or as an array."""
    answer = await service.client.request("POST" if body else "GET", path, headers={"accept": accept}, **body)
    assert answer.status_code == 200, answer.text
    return answer.json() if accept == "application/json" else np.load(io.BytesIO(answer.content))


async def means(service: Service) -> np.ndarray:
    """The means of the posteriors of the pixels."""
    latents = (await native(service, "/encode", content=write_npy(PIXELS)))["latents"]
    return np.array([one["mean"] for one in latents])


async def decoded(service: Service) -> np.ndarray:
    """The images of the latents."""
    return await native(service, "/decode", "application/x-npy", json={"latents": LATENTS})


async def test_every_call_of_tritonclient_gets_what_the_native_api_answers(service):
    found = await calls_of("triton", service)
    mean, images = await means(service), await decoded(service)
    samples = await native(service, "/sample?n=2&seed=5&temperature=0.5", "application/x-npy")
    reconstructed = await native(service, "/reconstruct", "application/x-npy", content=write_npy(PIXELS))
    for kind in ("sync", "aio"):
        by_name = {name.partition(" ")[2]: value for name, value in found.items() if name.startswith(kind)}
        answers = {name: value for name, value in by_name.items() if isinstance(value, dict)}
        outputs = {name: value["outputs"] for name, value in answers.items() if "about" in value}
        for form in ("binary", "json", "FP32", "FP16", "BF16", "draws", "gzip", "deflate"):
            near = 0.02 if form == "BF16" else 1e-5  # which has 8 bits, but not all levels
            np.testing.assert_allclose(outputs[f"encode {form}"]["mean"], mean, atol=near)
        np.testing.assert_allclose(outputs["encode BYTES"]["mean"], mean[[0, 0]], atol=1e-5)
        assert [*outputs["encode one output"]] == ["logvar"]
        for form in ("binary", "json", "BF16"):
            np.testing.assert_array_equal(outputs[f"decode {form}"]["images"], images)
        np.testing.assert_array_equal(outputs["reconstruct"]["images"], reconstructed)
        assert by_name["reconstruct"]["about"]["id"] == "seven"
        assert outputs["reconstruct PNG"]["images"] == ["89504e47"] * 3
        np.testing.assert_array_equal(outputs["sample"]["images"], samples)
        assert np.shape(outputs["sample without inputs"]["images"]) == (2, 8, 8, 1)
        assert [*outputs["score"]] == ["elbo", "reconstruction", "kl", "bits_per_dim"]
        assert [by_name[name] for name in ("live", "ready", "model ready", "other model ready")] == [1, 1, 1, 0]
        assert by_name["server metadata"]["name"] == "vae"
        assert by_name["model metadata"]["inputs"][0]["shape"] == [-1, 8, 8, 1]
        assert by_name["model config"]["input"][0]["dims"] == [8, 8, 1]
        assert len(by_name["index"]) == len(by_name["all statistics"]["model_stats"]) == 5
        assert by_name["unknown model"][0] == by_name["unknown version"][0] == "404"
        assert by_name["unknown parameter"] == ["422", by_name["unknown parameter"][1]]
    np.testing.assert_allclose(found["sync async_infer"]["outputs"]["mean"], mean, atol=1e-5)


async def test_every_call_of_the_client_of_kserve_gets_what_the_native_api_answers(service):
    found = await calls_of("kserve", service)
    mean = await means(service)
    for form in ("json", "binary", "one output"):
        np.testing.assert_allclose(found[f"encode {form}"]["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(found["encode BYTES"]["mean"], mean[:1], atol=1e-5)
    np.testing.assert_array_equal(found["decode FP16"]["images"], await decoded(service))
    assert [found[name] for name in ("live", "ready", "model ready", "other model ready")] == [True, True, True, False]
    assert found["unknown model"][0] == 404


async def test_requests_of_mlserver_get_what_the_native_api_answers(service):
    found = await calls_of("mlserver", service)
    mean = await means(service)
    np.testing.assert_allclose(found["encode numpy"]["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(found["encode base64"]["mean"], mean[:1], atol=1e-5)
    np.testing.assert_array_equal(found["decode FP64"]["images"], await decoded(service))
    for batch in (1, 3):
        np.testing.assert_allclose(np.squeeze(found[f"mlserver infer, {batch} at once"]), mean, atol=1e-5)


async def test_the_manifests_have_only_fields_that_kserve_and_kubernetes_know():
    found = await lines_of("kserve", "kserve_manifests.py", str(ROOT / "deploy" / "kserve"))
    assert found == {"inferenceservice.yml": [], "runtime.yml": []}
