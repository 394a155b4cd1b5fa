"""Data sets as arrays of images: MNIST files, a folder of pictures, .npy and .npz arrays; and their binarisation."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from model.arrays import DataError, Dataset, Images, read_arrays
from model.mnist import find_mnist, read_mnist

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF = 2**16
"""Bytes of EXIF that are looked at: a JPEG has no room for more in one piece."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def read_dataset(path: Path, image_shape: tuple[int, ...] | None = None) -> Dataset:
    """The data set in a file or folder; pictures are fitted to `image_shape` (C, H, W), arrays must have it."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() and not find_mnist(path):
        return _read_pictures(path, image_shape)
    dataset = read_mnist(path) if path.is_dir() else read_arrays(path)
    if image_shape not in (None, dataset.image_shape):
        raise DataError(f"{path}: expected images of shape {image_shape}, got {dataset.image_shape}")
    return dataset


def binarised(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel drawn from the Bernoulli of its grey level: uint8 to float32 of 0 and 1, same shape.

    The dynamic binarisation of Salakhutdinov and Murray (2008), as Burda et al. (2016) train on it.
    """
    return torch.bernoulli(levels / 255, generator=generator)


def draw_letter(letter: str, size: int, height: int, width: int) -> Images:
    """The letter in white on black, in the middle: uint8 [H, W]."""
    picture = Image.new("L", (width, height))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((width / 2, height / 2), letter, 255, font, anchor="mm")
    return np.asarray(picture)


def _read_pictures(folder: Path, image_shape: tuple[int, ...] | None) -> Dataset:
    test = folder / "test"
    if not (folder / "train").is_dir():
        return Dataset("pictures", _fitted(folder, image_shape))
    return Dataset(
        "pictures", _fitted(folder / "train", image_shape), _fitted(test, image_shape) if test.is_dir() else None
    )


def _fitted(folder: Path, image_shape: tuple[int, ...] | None) -> Images:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: expected MNIST files or pictures ({', '.join(sorted(SUFFIXES))}), got none")
    if image_shape is None:
        raise DataError(
            f"{folder}: no MNIST files found, and pictures want an image_shape C,H,W to fit them to, such as 3,64,64"
        )
    images = np.empty((len(paths), *image_shape), np.uint8)
    for number, path in enumerate(paths):
        images[number] = _read_picture(path, image_shape)
    return images


def _read_picture(path: Path, image_shape: tuple[int, ...]) -> Images:
    try:
        with Image.open(path) as picture:
            return fit(picture, image_shape)
    except UnidentifiedImageError:
        raise DataError(f"{path}: expected a picture, got {path.stat().st_size} bytes of none") from None
    except Exception as error:  # noqa: BLE001  # Pillow's parsers raise whatever a broken file leads them to
        raise DataError(f"{path}: expected a whole picture, got {error}") from None


def fit(picture: Image.Image, image_shape: tuple[int, ...]) -> Images:
    """The picture resized: uint8 [C, H, W]."""
    channels, height, width = image_shape
    resized = upright(picture, channels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def upright(picture: Image.Image, channels: int, orientation: int | None = None) -> Image.Image:
    """Turned as its EXIF asks, on white where it is transparent, 8 bits of grey (1 channel) or of colour (3).

    `orientation` is what EXIF says, where the caller knows it: Pillow is not asked then.
    """
    picture.load()
    asked = _orientation(picture) if orientation is None else orientation
    turned = picture.transpose(TURNS[asked]) if asked in TURNS else picture
    flat, mode = _flattened(turned), "L" if channels == 1 else "RGB"
    return flat if flat.mode == mode else flat.convert(mode)


def _orientation(picture: Image.Image) -> int | None:
    """As EXIF numbers it; Pillow's own function that turns would write the EXIF anew as well."""
    readable = picture.info and len(picture.info.get("exif", b"")) <= EXIF
    return picture.getexif().get(ORIENTATION) if readable else None


def _flattened(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        samples = np.asarray(picture, np.float32)
        levels = (samples / 257).round().clip(0, 255).astype(np.uint8)
        if "transparency" in picture.info:
            levels[samples == picture.info["transparency"]] = 255
        return Image.fromarray(levels)
    if not picture.has_transparency_data:
        return picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
