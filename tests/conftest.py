"""Options of the test suite, and its fixtures, for which torch and the application are imported."""

import gc

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="the device that the tests use: cpu, cuda or cuda:N")
    parser.addoption("--requests", type=int, default=200_000, help="the number of requests of `make soak`")


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run: the main process of pytest-xdist runs none, and need not wait for torch."""
    is_main_process = bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")
    if not is_main_process:
        gc.disable()  # until all modules are imported, which takes a quarter less without collections
        config.pluginmanager.import_plugin("tests.support.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests of real servers first: pytest-xdist moves the last tests to other processes, which start their own."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay
    gc.enable()
