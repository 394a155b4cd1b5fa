"""Items of a call: images or latents in any form that callers have, as bodies of requests for parts of them.

Image files are paths, bytes and images of Pillow. Arrays are those of numpy and tensors of torch; neither torch nor
Pillow is imported, their objects are told by their methods.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

NPY = "application/x-npy"
_FILE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow's images that PNG files have; images of other modes are converted to RGB."""


@runtime_checkable
class Tensor(Protocol):
    """A tensor of torch."""

    def detach(self) -> Any:
        """Return the tensor without its graph."""

    def cpu(self) -> Any:
        """Return the tensor in the memory of the processor."""

    def is_floating_point(self) -> bool:
        """Return whether the numbers are floats."""


@runtime_checkable
class Picture(Protocol):
    """An image of Pillow."""

    mode: Any
    size: Any

    def convert(self, mode: str) -> Any:
        """Return the image in another mode."""

    def save(self, fp: Any, format: str, **params: Any) -> None:  # noqa: A002  # Pillow's name
        """Write the image as a file."""


Array = np.ndarray | Tensor
File = str | Path | bytes | Picture
Images = Array | File | Iterable[Array] | Iterable[File]
"""Images as arrays or as files.

An array is uint8, or floats in [0, 1]: [H, W], [N, H, W] or [N, H, W, C] of numpy, [H, W], [C, H, W] or [N, C, H, W]
of torch. In a list each array is one image: [H, W], or [H, W, C] of numpy and [C, H, W] of torch. A file is a path, its
bytes, or an image of Pillow. Anything else raises `TypeError`; no image at all, arrays of different shapes, floats
outside of [0, 1], or arrays and files in one list raise `ValueError`.
"""


class Items(Protocol):
    """What a call is about, item by item: `sizes` are the bytes of each."""

    sizes: Sequence[int]

    def arguments(self, start: int, stop: int) -> dict[str, Any]:
        """Return arguments of `httpx.Client.build_request` for some of the items."""

    def place(self, index: int) -> str:
        """Return the place of an item in the argument of the caller, with the path of a file: `[300] (broken.png)`."""


class Rows:
    """The rows of an array; the caller's array may have several `axes` of them, here in one."""

    def __init__(self, array: np.ndarray, axes: Sequence[int] = ()) -> None:
        self._array, self._axes = array, tuple(axes) or array.shape[:1]
        self.sizes = [array[:1].nbytes] * len(array)

    def arguments(self, start: int, stop: int) -> dict[str, Any]:
        """Return a body in the format .npy."""
        stream = io.BytesIO()
        np.save(stream, self._array[start:stop], allow_pickle=False)
        return {"content": stream.getvalue(), "headers": {"Content-Type": NPY}}

    def place(self, index: int) -> str:
        """Return an index for each axis of the caller's array."""
        place = np.unravel_index(index, self._axes) if index < len(self._array) else (index,)
        return "".join(f"[{axis}]" for axis in place)


class Files:
    """Image files; they are read when their request is sent."""

    def __init__(self, files: Sequence[File]) -> None:
        self._files = files
        self.sizes = [_size(file) for file in files]

    def arguments(self, start: int, stop: int) -> dict[str, Any]:
        """Return a single file as it is, several as multipart."""
        contents = [_content(file) for file in self._files[start:stop]]
        if len(contents) == 1:
            return {"content": contents[0], "headers": {"Content-Type": "application/octet-stream"}}
        return {"files": [("images", (f"{index}", content)) for index, content in enumerate(contents)]}

    def place(self, index: int) -> str:
        """Return the index, and the path if the file has one."""
        file = self._files[index] if index < len(self._files) else None
        return f"[{index}] ({file})" if isinstance(file, str | Path) else f"[{index}]"


class Draws:
    """Draws from the prior: a number of images, without a body."""

    def __init__(self, count: int) -> None:
        self.sizes = [0] * max(1, count)
        self._count = count

    def arguments(self, start: int, stop: int) -> dict[str, Any]:
        """Return the number of images as a parameter; one that the service refuses is sent as it is."""
        return {"params": {"n": min(self._count, stop - start)}}

    def place(self, index: int) -> str:
        """Return the index."""
        return f"[{index}]"


class Whole:
    """Items that belong into one request."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self.sizes = [sum(items.sizes)]

    def arguments(self, start: int, stop: int) -> dict[str, Any]:  # noqa: ARG002  # there is one span
        """Return a body with all items."""
        return self._items.arguments(0, len(self._items.sizes))

    def place(self, index: int) -> str:
        """Return the place of one of the items."""
        return self._items.place(index)


def image_items(images: Images) -> Items:
    """Return the items of images in any form of `Images`."""
    if isinstance(images, np.ndarray | Tensor):
        return Rows(_batch(images))
    if not isinstance(images, File | Iterable) or hasattr(images, "read"):  # an open file iterates over its lines
        raise _not_images("images", images, ", or a list of them")
    items: list[Any] = [images] if isinstance(images, File) else list(images)
    if not items:
        raise ValueError("images: expected at least one")
    for index, image in enumerate(items):
        if not isinstance(image, Array | File):
            raise _not_images(f"images[{index}]", image)
    arrays = [image for image in items if isinstance(image, Array)]
    if arrays and len(arrays) < len(items):
        raise ValueError("images: expected arrays alone, or files alone, got both")
    return Rows(_stacked(arrays)) if arrays else Files(items)


def as_numpy(array: Any) -> np.ndarray:
    """Return a tensor of torch, or what numpy takes for an array, as a numpy array."""
    if isinstance(array, Tensor):
        tensor = array.detach().cpu()
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())  # numpy has no bfloat16
    return np.asarray(array)


def _not_images(name: str, value: object, more: str = "") -> TypeError:
    what = f"an array, or the path or bytes of an image file{more}"
    return TypeError(f"{name}: expected {what}, got {type(value).__name__}")


def _batch(images: Array) -> np.ndarray:
    """Return uint8 [N, H, W] or [N, H, W, C]."""
    array = as_numpy(images)
    if array.ndim == 2:
        array = array[None]
    elif isinstance(images, Tensor):
        array = _channels_last(array if array.ndim == 4 else array[None])
    return _grey_levels(array, "images")


def _stacked(arrays: Sequence[Array]) -> np.ndarray:
    rows = [_image(array, index) for index, array in enumerate(arrays)]
    shape = list(rows[0].shape)
    for index, row in enumerate(rows):
        if list(row.shape) != shape:
            raise ValueError(f"images[{index}]: expected an array {shape} as the first, got {list(row.shape)}")
    return np.stack(rows)


def _image(image: Array, index: int) -> np.ndarray:
    array = as_numpy(image)
    turned = _channels_last(array[None])[0] if isinstance(image, Tensor) and array.ndim == 3 else array
    return _grey_levels(turned, f"images[{index}]")


def _channels_last(array: np.ndarray) -> np.ndarray:
    if array.ndim != 4:
        raise ValueError(f"images: expected a tensor [H, W], [C, H, W] or [N, C, H, W], got {list(array.shape[1:])}")
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def _grey_levels(array: np.ndarray, name: str) -> np.ndarray:
    """Return uint8: floats in [0, 1] are scaled to 255."""
    if not np.issubdtype(array.dtype, np.floating):
        if array.dtype != np.uint8:
            raise ValueError(f"{name}: expected uint8, or floats in [0, 1], got {array.dtype}")
        return array
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"{name}: expected floats in [0, 1], got {array.min():g} to {array.max():g}")
    return (array * 255 + 0.5).astype(np.uint8)


def _size(file: File) -> int:
    """Return the bytes of a file; of an image of Pillow at most as many."""
    if isinstance(file, bytes):
        return len(file)
    return 4 * file.size[0] * file.size[1] if isinstance(file, Picture) else Path(file).stat().st_size


def _content(file: File) -> bytes:
    if isinstance(file, bytes):
        return file
    if not isinstance(file, Picture):
        return Path(file).read_bytes()
    stream = io.BytesIO()
    picture = file if file.mode in _FILE_MODES else file.convert("RGB")
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
