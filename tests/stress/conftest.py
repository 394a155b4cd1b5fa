"""Figures that a test has measured, printed after it."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def figures(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[dict[str, object]]:
    """What the test enters is printed at its end, by name."""
    measured: dict[str, object] = {}
    yield measured
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    with capsys.disabled():
        terminal.write_line(f"\n{request.node.name}")
        for name, value in measured.items():
            terminal.write_line(f"    {name}: {value}")
