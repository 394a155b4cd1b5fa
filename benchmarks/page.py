"""The web page in Chromium: bytes over the wire, and time from navigation to the first samples on screen.

python -m benchmarks.page --visits 6
"""

from statistics import median
from typing import Annotated, Any, NamedTuple

import typer
from playwright.sync_api import Browser, Page

from app.settings import DEFAULT_MODEL
from tests.support.browser import installed_browser, running_browser
from tests.support.raw_http import server_process

_FIRST_SAMPLES = """new Promise((resolve) => {
    const look = () => requestAnimationFrame(() => {
        const canvas = document.querySelector(".tile canvas");
        if (canvas && canvas.width !== 300) requestAnimationFrame(resolve);
        else look();
    });
    look();
})"""
"""A promise of the time in ms at which the frame after the first painted sample begins."""


class Transfer:
    """Counts the bytes of responses to a tab, with their heads."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Network.enable")
        self._session.on("Network.responseReceived", self._on_response)
        self._session.on("Network.loadingFinished", self._on_end)
        self._static: dict[str, bool] = {}
        self.files = self.bytes = 0

    def _on_response(self, event: dict[str, Any]) -> None:
        path = event["response"]["url"].split("/", 3)[3]
        self._static[event["requestId"]] = not path or path.startswith("web/")

    def _on_end(self, event: dict[str, Any]) -> None:
        if self._static.get(event["requestId"]):
            self.files += 1
            self.bytes += int(event["encodedDataLength"])


class Visit(NamedTuple):
    """Times in ms to the first samples, with an empty cache and again; files and bytes of the first time."""

    first: float
    second: float
    files: int
    size: int


def visit(browser: Browser, url: str) -> Visit:
    """Visit the page twice in a session of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    transfer = Transfer(page)
    first = _time_to_samples(page, url)
    files, size = transfer.files, transfer.bytes
    second = _time_to_samples(page, url)
    context.close()
    return Visit(first, second, files, size)


def _time_to_samples(page: Page, url: str) -> float:
    page.goto(url, wait_until="commit")
    time: float = page.evaluate(_FIRST_SAMPLES)
    page.wait_for_load_state("networkidle")
    return time


def main(visits: Annotated[int, typer.Option(help="Visits with an empty cache, each with a second one.")] = 6) -> None:
    """Measure the page of the shipped model."""
    path = installed_browser()
    if path is None:
        raise typer.BadParameter("no Chromium is installed; CONTRIBUTING.md says how to get one")
    with server_process(DEFAULT_MODEL) as server, running_browser(path) as browser:
        results = [visit(browser, f"http://127.0.0.1:{server.port}/") for _ in range(visits)]
    typer.echo(f"{results[0].files} files, {results[0].size:,} bytes")
    by_cache = {"empty cache": [one.first for one in results], "files in the cache": [one.second for one in results]}
    for name, times in by_cache.items():
        typer.echo(f"{name}: {min(times):.0f} to {max(times):.0f} ms, median {median(times):.0f}")


if __name__ == "__main__":
    typer.run(main)
