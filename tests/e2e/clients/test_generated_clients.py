"""Clients that generators make of the OpenAPI document, against a real service: Python and TypeScript."""

import asyncio
import base64
import io
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.codecs.png import write_png
from tests.support.live_server import ROOT, Service, serving

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

SCRIPTS, ENVIRONMENTS = Path(__file__).parent, ROOT / ".venv" / "clients"
PNG = write_png(np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
TSC = "--strict --target es2022 --module nodenext --moduleResolution nodenext --skipLibCheck --outDir ."


@pytest.fixture(scope="module")
async def service(digits_model) -> AsyncIterator[Service]:
    async with serving(digits_model) as started:
        yield started


@pytest.fixture
async def folder(service: Service, tmp_path: Path) -> Path:
    """A folder with the document of the service and an image file."""
    (tmp_path / "openapi.json").write_bytes((await service.client.get("/openapi.json")).content)
    (tmp_path / "digit.png").write_bytes(PNG)
    return tmp_path


async def output(*command: str | Path, cwd: Path) -> str:
    """What a command prints."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*map(str, command), cwd=cwd, stdout=pipe, stderr=pipe)
    out, errors = await process.communicate()
    assert process.returncode == 0, (out + errors).decode()
    return out.decode()


async def check(service: Service, lines: str) -> None:
    """Compare what a client got with the answers of the service."""
    got: dict[str, Any] = dict(json.loads(line) for line in lines.splitlines() if line.startswith("["))
    latents = (await service.client.post("/encode", content=PNG)).json()["latents"]
    for form in ("file", "form", "base64"):
        np.testing.assert_allclose(got[f"encode a {form}" if form != "base64" else "encode base64"], latents[0]["mean"])
    sample = (await service.client.get("/sample?n=2&seed=7")).content
    assert base64.b64decode(got["sample"]) == base64.b64decode(got["sample by POST"]) == sample
    sizes = {name: Image.open(io.BytesIO(base64.b64decode(got[name]))).size for name in ("decode", "interpolate")}
    assert sizes == {"decode": (8, 8), "interpolate": (24, 8)}
    score = (await service.client.post("/score?seed=7", content=PNG)).json()["scores"][0]
    assert got["score"] == pytest.approx(score["elbo"])
    assert got["a problem"] == "latents[0]: expected 4 numbers, got 1"


async def test_a_client_by_openapi_python_client_posts_an_image_and_gets_latents_and_a_png(service, folder):
    programs = ENVIRONMENTS / "openapi" / "bin"
    if not (programs / "openapi-python-client").exists():
        pytest.skip("openapi-python-client is not installed; make clients does that")
    options = ["--meta", "none", "--output-path", folder / "vae_api", "--config", SCRIPTS / "openapi-python-client.yml"]
    await output(programs / "openapi-python-client", "generate", "--path", "openapi.json", *options, cwd=folder)
    url = f"http://127.0.0.1:{service.port}"
    await check(
        service,
        await output(programs / "python", SCRIPTS / "openapi_calls.py", folder, url, "digit.png", cwd=folder),
    )


async def test_a_client_by_openapi_typescript_posts_an_image_and_gets_latents_and_a_png(service, folder):
    modules = ENVIRONMENTS / "npm" / "node_modules"
    if not (modules / "openapi-fetch").exists():
        pytest.skip("openapi-typescript and openapi-fetch are not installed; make clients does that, with npm")
    (folder / "node_modules").symlink_to(modules)
    (folder / "package.json").write_text('{"type": "module"}')
    for name in ("openapi_calls.ts", "generate_types.mjs"):
        shutil.copy(SCRIPTS / name, folder)
    await output("node", "generate_types.mjs", "openapi.json", "schema.d.ts", cwd=folder)
    await output("node", modules / "typescript" / "bin" / "tsc", *TSC.split(), "openapi_calls.ts", cwd=folder)
    url = f"http://127.0.0.1:{service.port}"
    await check(service, await output("node", "openapi_calls.js", url, "digit.png", cwd=folder))
