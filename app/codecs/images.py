"""Where bytes become numbers, and back; with `app.codecs.png_reader` the only module of the service that knows Pillow.

Pixels are uint8 [N, C, H, W]. A picture of any size and mode is fitted to the model: EXIF orientation is honoured,
alpha is flattened onto white, 16-bit grey is scaled to 8.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageOps, JpegImagePlugin, WebPImagePlugin

from app.codecs.metadata import UPRIGHT, TooManyPieces, Unreadable
from app.codecs.png import read_png
from app.codecs.png_reader import SIGNATURE, Png, open_png
from app.codecs.stripping import Stripped, strip
from app.errors import ContentTooLarge, DeadlineExceeded, UnprocessableContent
from model.data.images import upright

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_BY_PILLOW = [
    JpegImagePlugin.JpegImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
]
"""Imported before the first file comes: if Pillow cannot import one, for lack of memory, it never does later."""

FORMAT_NAMES = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
Fit = Literal["resize", "pad", "crop", "exact"]

MAX_PIXELS = 2**28
"""Pixels of all images in one request: what takes a second or two to decode, and ten times that at the worst."""

PIXELS_PER_BYTE = 256
"""Pixels of all images in one request for each byte of their files, beside those that one image may have.

Photos have 3 to 16, screenshots up to 100, scanned text of one bit up to 200. Blank WebP files have 20,000 and take
32 ns for each pixel.
"""

SIDE = 2**20
"""Pixels of one side of an image: each row of a PNG takes 100 ns besides its pixels."""

_PROBED = 2**24

MEMORY = 32
"""Bytes that decoding takes for each pixel at the most: a decoder reports that it got no memory as damaged data."""


class EncodedImage(NamedTuple):
    """An image file, stripped, of which only the header has been read."""

    width: int
    height: int
    orientation: int
    format: str | None
    content: bytes

    @property
    def cost(self) -> int:
        """Pixels, which decoding takes time for."""
        return self.width * self.height

    def image(self) -> Image.Image:
        """The image, still undecoded."""
        return Image.open(io.BytesIO(self.content), formats=_BY_PILLOW)


def configure_pillow_limits() -> None:
    """Configure Pillow for the whole process: import its codecs, and switch off its size limit and its warnings.

    `open_image` has a limit of its own. Pillow's UserWarnings describe odd files of clients, which no operator can act
    on, and Python keeps each distinct one in memory. Deprecation warnings stay on.
    """
    Image.preinit()
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def open_image(content: bytes, index: int, max_pixels: int) -> Png | EncodedImage:
    """An image file of which only the header has been read, and no more is kept than decides its pixels.

    Raises `UnprocessableContent` for a file that is no image, and `ContentTooLarge` for one of more than `max_pixels`,
    of a side longer than `SIDE`, or of more scans, segments, blocks or chunks than an image needs.
    """
    try:
        image = open_png(content) if content.startswith(SIGNATURE) else _header_of(strip(content))
    except TooManyPieces as error:
        raise ContentTooLarge(f"images[{index}]: {error}, which no image file needs") from None
    except MemoryError:
        raise
    except Unreadable as error:
        raise UnprocessableContent(f"images[{index}]: {error}") from None
    except Exception:  # noqa: BLE001  # Pillow's parsers raise whatever a broken header leads them to
        _require_memory(min(max_pixels, _PROBED))
        raise UnprocessableContent(
            f"images[{index}]: expected {FORMAT_NAMES}, got {len(content)} bytes that are none"
        ) from None
    if max(image.width, image.height) > SIDE:
        raise ContentTooLarge(f"images[{index}]: {image.width} x {image.height} has a side of more than {SIDE} pixels")
    if image.width * image.height > max_pixels:
        raise ContentTooLarge(
            f"images[{index}]: {image.width} x {image.height} is more than the {max_pixels} pixels allowed"
        )
    return image


def probe_images(
    contents: Sequence[bytes],
    shape: tuple[int, ...],
    max_pixels: int,
    expired: Callable[[], bool] = lambda: False,
) -> list[Png | EncodedImage | np.ndarray]:
    """Each as `open_image` does, and raises; a plain PNG of the model's shape is as quickly read at once.

    Raises `ContentTooLarge` as well for more pixels than all of them may have: `MAX_PIXELS`, and not many more than one
    image may have where their files are small; and `DeadlineExceeded` before the next image once `expired`.
    """
    size = sum(map(len, contents))
    most = max(max_pixels, min(MAX_PIXELS, max_pixels + PIXELS_PER_BYTE * size))
    quick = shape[1] * shape[2] <= max_pixels
    opened: list[Png | EncodedImage | np.ndarray] = []
    pixels = 0
    for index, content in enumerate(contents):
        if expired():
            raise DeadlineExceeded(f"images[{index}] was not read within the request's deadline")
        array = read_png(content, shape) if quick else None
        image = open_image(content, index, max_pixels) if array is None else array
        pixels += shape[1] * shape[2] if isinstance(image, np.ndarray) else image.width * image.height
        if pixels > most:
            raise ContentTooLarge(
                f"images[0] to images[{index}] have {pixels} pixels, more than the {most} allowed for {len(contents)} "
                f"images of {size} bytes together; send fewer in one request"
            )
        opened.append(image)
    return opened


def decode_images(
    images: Sequence[Png | EncodedImage | Image.Image | np.ndarray],
    shape: Sequence[int],
    fit: Fit,
    expired: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Decoded and fitted to the model's [C, H, W], each let go before the next.

    Raises `UnprocessableContent`, which names a damaged image, and `DeadlineExceeded` before the next image once
    `expired`.
    """
    loaded = []
    for index, image in enumerate(images):
        if expired():
            raise DeadlineExceeded(f"images[{index}] was not decoded within the request's deadline")
        loaded.append(_load(image, index, shape, fit))
    return np.stack(loaded) if len(loaded) > 1 else loaded[0][None]


def fit_array(array: np.ndarray, shape: Sequence[int], fit: Fit) -> np.ndarray:
    """A uint8 array [N, H, W] or [N, H, W, C] as pixels of the model's [C, H, W]."""
    images = array[..., None] if array.ndim == 3 else array
    channels, height, width = shape
    if images.shape[1:] == (height, width, channels):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    pictures = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]
    return decode_images(pictures, shape, fit)


def write_npy(array: np.ndarray) -> bytes:
    """The array as an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _header_of(file: Stripped) -> EncodedImage:
    with Image.open(io.BytesIO(file.content), formats=_BY_PILLOW) as image:
        return EncodedImage(image.width, image.height, file.orientation, image.format, file.content)


def _load(
    picture: Png | EncodedImage | Image.Image | np.ndarray, index: int, shape: Sequence[int], fit: Fit
) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        return picture
    channels, height, width = shape
    try:
        flat = _upright(picture, channels)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # as in `open_image`
        _require_memory(picture.width * picture.height)
        raise UnprocessableContent(f"images[{index}]: the {picture.format} data is truncated or damaged") from None
    if fit == "exact" and flat.size != (width, height):
        raise UnprocessableContent(
            f"images[{index}]: expected {width} x {height} pixels, got {flat.width} x {flat.height}"
        )
    fitted = np.array(_fitted(flat, (width, height), fit))
    return fitted[None] if channels == 1 else fitted.transpose(2, 0, 1)


def _upright(picture: Png | EncodedImage | Image.Image, channels: int) -> Image.Image:
    if isinstance(picture, Image.Image):
        return upright(picture, channels, UPRIGHT)
    with picture.image() as image:
        return upright(image, channels, picture.orientation)


def _require_memory(pixels: int) -> None:
    """Raise `MemoryError` where there is not as much as decoding so many pixels takes."""
    np.empty(MEMORY * pixels, np.uint8)  # not written to, so that nothing has to provide it


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    if image.size == size:
        return image
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.BILINEAR)
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    return image.resize(size, Image.Resampling.BILINEAR)
