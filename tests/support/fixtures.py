"""Real small models and the real application around them; a device option runs the suite on a GPU."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from hypothesis import settings

from app import single_flight
from app.codecs.images import configure_pillow_limits
from app.codecs.png import write_png
from app.inference.device import configure_torch
from app.main import create_app
from app.settings import Settings
from model.checkpoint import METRICS
from model.evaluation.calibration import calibrate
from model.files import write_json
from model.formats import load
from model.typicality_files import write_typicality
from tests.support.apps import running
from tests.support.cli_runner import SMALL, vae
from tests.support.models import COLOUR, DIGITS, write

configure_pillow_limits()
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import ONNX Runtime themselves

settings.register_profile("tests", deadline=None)  # also on a busy machine
settings.load_profile("tests")

configure_torch(Settings(device="cpu", threads=1))  # with small models more threads only wait for one another
single_flight.MAX_REST_SECONDS = 0.05  # tests read /metrics several times in a row


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
    """1,797 real handwritten digits, uint8 [N, 1, 8, 8].

    They are read from the file of scikit-learn; its import takes a second of each process.
    """
    spec = find_spec("sklearn")
    assert spec
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    levels = np.loadtxt(file, delimiter=",")[:, :64].reshape(-1, 1, 8, 8)
    return (levels * 255 / 16).round().astype(np.uint8)


@pytest.fixture(scope="session")
def png(digits: np.ndarray) -> bytes:
    """The first of them as a file."""
    return write_png(digits[0])


def write_data(folder: Path, digits: np.ndarray) -> Path:
    """Write digits as `vae train` is given them: 600 to train on, 100 to test."""
    np.savez(folder / "digits.npz", train=digits[:600, 0], test=digits[600:700, 0])
    return folder / "digits.npz"


@pytest.fixture
def data(tmp_path: Path, digits: np.ndarray) -> Path:
    """The file of `write_data`."""
    return write_data(tmp_path, digits)


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory, digits: np.ndarray) -> Path:
    """The folder of a small model that `vae train --keep-state` left; `trained` is a copy that a test may change."""
    folder = tmp_path_factory.mktemp("training")
    line = f"train {SMALL} --epochs 1 --keep-state"
    result = vae(line, "--data", write_data(folder, digits), "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture
def trained(training: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a small model that `vae train --keep-state` left."""
    return Path(shutil.copytree(training, tmp_path / "run"))


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


@pytest.fixture
def calibrated_model(evaluated_model: Path, digits: np.ndarray) -> Path:
    """The evaluated model, with its typicality calibrated by 300 digits."""
    write_typicality(evaluated_model, calibrate(load(evaluated_model), digits[:300], "digits"))
    return evaluated_model


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "colour", COLOUR)


Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session")
def serve(digits_model: Path, device: str) -> Serve:
    """`serve(**settings)` runs the application around the digits model with those settings."""

    here = {"model": digits_model, "device": device, "threads": 1}  # one thread: these models are small

    def start(**settings: object) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return running(create_app(Settings(**{**here, **settings})))

    return start


@pytest.fixture(scope="module")
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """One service for all tests of a module; a test that counts starts its own."""
    async with serve() as ready:
        yield ready
