"""A browser and services for the tests of the page."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.settings import DEFAULT_MODEL
from model.checkpoint import write_checkpoint
from model.config import VAEConfig
from tests.support.browser import Visit, installed_browser, running_browser
from tests.support.models import DIGITS, build, write
from tests.support.onnx_pairs import write_spatial_pair
from tests.support.raw_http import server_process

SPATIAL = VAEConfig(
    image_shape=(3, 32, 32), latent_shape=(4, 8, 8), stride=2, channels=(8, 8), blocks=(0, 1), likelihood="logistic"
)

Open = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = installed_browser()
    if path is None:
        pytest.skip("no Chromium is installed; CONTRIBUTING.md says how to get one")
    with running_browser(path) as browser:
        yield browser


@pytest.fixture(scope="session")
def shipped(browser: Any) -> Iterator[str]:
    """The address of a service of the shipped model."""
    with server_process(DEFAULT_MODEL) as server:
        yield f"http://127.0.0.1:{server.port}/"


@pytest.fixture(scope="session")
def spatial(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service of a small colour model with spatial latents."""
    folder: Path = write(tmp_path_factory.mktemp("models") / "spatial", SPATIAL)
    with server_process(folder) as server:
        yield f"http://127.0.0.1:{server.port}/"


@pytest.fixture(scope="session")
def distant(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service of a model with clamped posteriors, whose latents are some 20,000 from the prior."""
    vae = build(DIGITS)
    bias = [weight for name, weight in vae.encoder.named_parameters() if name.endswith("bias")][-1]
    with torch.no_grad():
        bias[: DIGITS.latent_shape[0]] = torch.tensor([-20_000.0, 15_000.0, 3.0, 0.5])
    folder: Path = tmp_path_factory.mktemp("models") / "distant"
    write_checkpoint(folder, DIGITS, vae.state_dict())
    with server_process(folder) as server:
        yield f"http://127.0.0.1:{server.port}/"


@pytest.fixture(scope="session")
def many_sizes(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service of a pair of ONNX graphs for many sizes, without a prior and a density."""
    folder = write_spatial_pair(tmp_path_factory.mktemp("models") / "pair", prior=False, maximum=128)
    with server_process(folder) as server:
        yield f"http://127.0.0.1:{server.port}/"


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Visit a page in a session of its own; the browser must have complained about nothing at the end of the test."""
    visits: list[Visit] = []

    def visit(url: str, width: int = 1280, **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(15_000)
        visits.append(Visit(context, url))
        return visits[-1]

    yield visit
    complaints = [complaint for visit in visits for complaint in visit.complaints]
    for visited in visits:
        visited.page.context.close()
    assert complaints == []


@pytest.fixture
def visit(open_page: Open, shipped: str) -> Visit:
    """A visit of the page of the shipped model."""
    return open_page(shipped)


@pytest.fixture
def api(shipped: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shipped, timeout=30) as client:
        yield client
