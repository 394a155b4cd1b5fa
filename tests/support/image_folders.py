"""Folders of image files in several formats, sizes and names, with broken ones among them."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("cat.jpg", "кот.png", "猫/白 猫.webp", "γάτα/ψ.gif", "قط.bmp", "a%2Fb.png", "emoji-🐈.png", "x.tiff")
"""Names in several scripts, some in folders."""


def image(seed: int, width: int = 13, height: int = 9, mode: str = "RGB") -> Image.Image:
    """An image of noise."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(pixels.squeeze(), mode if bands > 1 else None)


def write_images(folder: Path, count: int, *, broken: int = 0, suffix: str = ".png") -> list[Path]:
    """Write images of several sizes; every `broken`-th file is damaged."""
    paths = []
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number:04d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number, 8 + number % 5, 8 + number % 3).save(path)
        if broken and number % broken == 0:
            path.write_bytes(path.read_bytes()[: 40 + number % 17])
        paths.append(path)
    return paths


def write_named(folder: Path) -> None:
    """Write an image for each of `NAMES`."""
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number).save(path)
