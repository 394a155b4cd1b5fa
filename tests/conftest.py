"""Real small models and the real application around them; a device option runs the suite on a GPU."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from command import SMALL, vae
from fastapi import FastAPI
from hypothesis import settings
from sklearn.datasets import load_digits

from app.main import create_app
from app.png import write_png
from app.settings import Settings
from model.checkpoint import METRICS, write_checkpoint, write_json
from model.config import VAEConfig
from model.vae import VAE

DIGITS = VAEConfig(image_shape=(1, 8, 8), latent_shape=(4,), stride=2, channels=(8, 8), blocks=(1, 0), hidden=(24,))
COLOUR = VAEConfig(
    image_shape=(3, 13, 9), latent_shape=(2, 4, 3), stride=2, channels=(6, 6), blocks=(0, 1), likelihood="logistic"
)
PROBES = ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json")


os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for those laws that import ONNX Runtime themselves

settings.register_profile("laws", deadline=None)  # a law holds however busy the machine is
settings.load_profile("laws")

torch.set_num_threads(1)  # these models are small: more threads wait for one another, and for other processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the laws are checked: cpu, cuda or cuda:N")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.config.getoption("--device")
    return name


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """1,797 real handwritten digits, uint8 [N, 1, 8, 8]."""
    return (load_digits().images * 255 / 16).round().astype(np.uint8)[:, None]


@pytest.fixture(scope="session")
def png(digits: np.ndarray) -> bytes:
    """The first of them as a file."""
    return write_png(digits[0])


def build(config: VAEConfig, seed: int = 0) -> VAE:
    """A VAE whose every weight matters: the zero-initialised ones are drawn as well."""
    torch.manual_seed(seed)
    vae = VAE(config)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.copy_(torch.randn_like(weight) * (0.5 / max(1, weight[0].numel()) ** 0.5))
    return vae.eval()


def write(folder: Path, config: VAEConfig) -> Path:
    write_checkpoint(folder, config, build(config).state_dict())
    return folder


@pytest.fixture
def data(tmp_path: Path, digits: np.ndarray) -> Path:
    """The digits as `vae train` is given them: 600 to train on, 100 to test."""
    np.savez(tmp_path / "digits.npz", train=digits[:600, 0], test=digits[600:700, 0])
    return tmp_path / "digits.npz"


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Path:
    """The folder of a small model that `vae train` left."""
    result = vae(f"train {SMALL} --epochs 1", "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "digits", DIGITS)


@pytest.fixture
def evaluated_model(digits_model: Path, tmp_path: Path) -> Path:
    """The digits' model, evaluated: its test images have the ELBOs -200, -199 and so on to -100."""
    shutil.copytree(digits_model, tmp_path / "evaluated")
    reference = {"elbo": [-200.0 + n for n in range(101)], "areas": {}, "split": "test split"}
    write_json(tmp_path / "evaluated" / METRICS, {"reference": reference})
    return tmp_path / "evaluated"


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "colour", COLOUR)


async def until(brought_about: Callable[[], bool]) -> None:
    """Wait for what another thread will do."""
    async with asyncio.timeout(30):
        while not brought_about():  # noqa: ASYNC110  # a thread sets no asyncio.Event
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application, started and ready, behind a client in the same process."""
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://vae") as client,
    ):
        await until(lambda: app.state.engine.ready)
        yield client


Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session")
def serve(digits_model: Path, device: str) -> Serve:
    """`serve(**settings)` runs the application around the digits model with those settings."""

    here = {"model": digits_model, "device": device, "threads": 1}  # one thread: these models are small

    def start(**settings: object) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return running(create_app(Settings(**{**here, **settings})))  # type: ignore[arg-type]

    return start


@pytest.fixture(scope="module")
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """One service for all the laws of a module; a law that counts starts its own."""
    async with serve() as ready:
        yield ready
