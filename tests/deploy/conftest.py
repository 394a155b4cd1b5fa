"""Options and fixtures of the tests that need Docker or Ray, and the traffic table they print."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.checkpoint import read_checkpoint, write_checkpoint
from tests.support.compose import Project, run
from tests.support.traffic import SHIPPED, Tally

DEBIAN = {"haproxy": "PROXY_IMAGE", "prometheus": "PROMETHEUS_IMAGE"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--publish", type=int, default=8500, help="the port on which the service is published")
    parser.addoption("--wheels", help="a folder of wheels, to build the image offline")
    parser.addoption("--torch-index", default="", help="the index of torch's CPU wheels")
    parser.addoption("--no-build", action="store_true", help="use the image vae-service that exists")
    parser.addoption("--debian", action="store_true", help="build HAProxy and Prometheus from Debian's packages")
    parser.addoption("--kills", type=int, default=10, help="how often a replica on Ray is killed in each test")


@pytest.fixture(scope="session")
def port(request: pytest.FixtureRequest) -> int:
    number: int = request.config.getoption("--publish")
    return number


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    number: int = request.config.getoption("--kills")
    return number


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the user of a container can read."""
    folder = tmp_path_factory.mktemp("deploy")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> None:
    """The images of the service, and of HAProxy and Prometheus where they are built from Debian's packages."""
    wheels, index = request.config.getoption("--wheels"), request.config.getoption("--torch-index")
    if not request.config.getoption("--no-build"):
        options = ["--build-context", f"wheels={wheels}"] if wheels else []
        options += ["--build-arg", f"TORCH_INDEX={index}"] if index else []
        run("docker", "build", "--no-cache", *options, "--tag", "vae-service", ".")
    if request.config.getoption("--debian"):
        for target, variable in DEBIAN.items():
            os.environ[variable] = f"vae-check-{target}"
            recipe = "tests/deploy/debian.Dockerfile"
            run("docker", "build", "--target", target, "--tag", f"vae-check-{target}", "--file", recipe, "tests/deploy")


@pytest.fixture(scope="module")
def clean(images: None, port: int) -> Iterator[None]:
    """No container of the project exists before and after the tests of a module."""
    project = Project(port=port)
    project.down()
    yield
    project.down()


@pytest.fixture(scope="session")
def another_model(scratch: Path) -> Path:
    """The shipped model with every weight a little larger."""
    folder = scratch / "another"
    shipped = read_checkpoint(SHIPPED)
    weights = {name: weight * 1.05 for name, weight in shipped.vae.state_dict().items()}
    write_checkpoint(folder, shipped.vae.config, weights)
    return folder


class TrafficTable:
    """The rows of a table of traffic, printed as the tests produce them."""

    def __init__(self, terminal: pytest.TerminalReporter, capture: pytest.CaptureFixture[str]) -> None:
        self._terminal, self._capture = terminal, capture

    def add(self, name: str, tally: Tally, seen: object = "") -> None:
        """Print a row; nothing may be lost or wrong in it."""
        counts = f"sent {tally.sent}, answered {tally.answered}, refused {tally.refused}"
        lost = f"lost {len(tally.lost)}, wrong {len(tally.wrong)}"
        with self._capture.disabled():
            self._terminal.write_line(f"\n{name}: {counts}, {lost}; {seen}")
        assert tally.answered > 0
        assert not tally.lost
        assert not tally.wrong


@pytest.fixture
def table(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> TrafficTable:
    return TrafficTable(request.config.pluginmanager.get_plugin("terminalreporter"), capsys)
