"""A browser, and the page of the service in it."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from playwright.sync_api import Browser, BrowserContext, Locator, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--no-sandbox",  # for root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PIXELS = """async (canvas) => {
    for (let i = 0; i < 500 && canvas.width === 300 && canvas.height === 150; i += 1)
        await new Promise((resolve) => setTimeout(resolve, 20));
    return [canvas.width, ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""
"""Width and pixels of a canvas, once it has been painted: a new one has 300 by 150 pixels."""

SETTLED = """async () => {
    for (let idle = 0; idle < 4; idle = document.body.dataset.work === "0" ? idle + 1 : 0)
        await new Promise((resolve) => setTimeout(resolve, 20));
}"""
"""Waits until the page has no work under way: requests, and images that are read or written for them."""
NPY = "application/x-npy"
PANELS = ("Sample", "Encode", "Explore", "Interpolate", "Score", "Model")


def installed_browser() -> str | None:
    """The path of Chromium or Chrome; None where neither is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def running_browser(path: str) -> Iterator[Browser]:
    """Run a browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


class Visit:
    """One visit of the page: a tab of its own, and what the browser complains about.

    `complaints` are errors of scripts and of the console, and requests to other hosts.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url, self.page = url, context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", lambda message: self._check_message(message.type, message.text))
        self.page.on("request", lambda request: self._check_host(request.url))
        self.page.goto(url)

    def _check_message(self, kind: str, text: str) -> None:
        if kind == "error" and not text.startswith("Failed to load resource: the server responded with"):
            self.complaints.append(f"{kind}: {text}")

    def _check_host(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.complaints.append(f"a request to {url}")

    def open(self, name: str) -> Locator:
        """Open a panel by its tab; the panel, once its first result is shown."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        panel = self.page.get_by_role("tabpanel", name=name)
        panel.locator("canvas, .card").first.wait_for()
        self.settle()
        return panel

    def settle(self) -> None:
        """Wait until no work is under way."""
        self.page.evaluate(SETTLED)

    def image(self, name: str, panel: Locator | None = None) -> np.ndarray:
        """The pixels of a picture by its name, uint8 [H, W, 3]."""
        return pixels((panel or self.page).get_by_role("img", name=name, exact=True))

    def current(self) -> np.ndarray:
        """The pixels of the current image."""
        return pixels(self.page.locator(".subject-image"))

    def choose(self, content: bytes, name: str = "chosen.png", media_type: str = "image/png") -> None:
        """Choose a file as the current image."""
        file: Any = {"name": name, "mimeType": media_type, "buffer": content}
        self.page.locator("input[type=file]").set_input_files(file)
        self.page.locator(".subject-name", has_text=name).wait_for(state="attached")
        self.settle()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return width


def pixels(canvas: Locator) -> np.ndarray:
    """The pixels of a canvas, uint8 [H, W, 3]."""
    canvas.wait_for()
    width, *levels = canvas.evaluate(PIXELS)
    return np.array(levels, np.uint8).reshape(-1, width, 4)[:, :, :3]


def colours(images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] as colours [N, H, W, 3]."""
    return np.broadcast_to(images, (*images.shape[:3], 3))


def answered_images(response: httpx.Response) -> np.ndarray:
    """The images of a response in the format .npy, as colours [N, H, W, 3]."""
    return colours(np.load(io.BytesIO(response.raise_for_status().content)))
