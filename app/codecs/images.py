"""Image decoding by Pillow: files of any format, size and mode to pixels of the model's shape, uint8 [N, C, H, W].

EXIF orientation is applied, alpha is flattened onto white, 16-bit grey is scaled to 8 bits. PNG files are read by
`app.codecs.png` and `app.codecs.png_reader`.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import CDLL, c_void_p
from typing import Literal, NamedTuple

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
)

from app.codecs import tiff
from app.codecs.avif import is_avif
from app.codecs.media_types import is_heic
from app.codecs.metadata import UPRIGHT, TooManyPieces, Unreadable
from app.codecs.png import read_png
from app.codecs.png_reader import SIGNATURE, Png, open_png
from app.codecs.stripping import Stripped, strip
from app.errors import ContentTooLarge, DeadlineExceeded, UnprocessableContent
from model.data.images import ORIENTATION_TAG, QUARTER_TURNS, upright

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")
_BY_PILLOW = [
    JpegImagePlugin.JpegImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
]
"""Imported at start-up: if Pillow fails to import a codec later, for lack of memory, it never tries again.

TIFF and AVIF are opened by their names alone, after they were stripped.
"""

FORMAT_NAMES = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
Fit = Literal["resize", "pad", "crop", "exact"]
Filter = Literal["bilinear", "lanczos"]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}

MAX_PIXELS = 2**28
"""Pixels of all images in one request. They take a second or two to decode, at worst ten times as long."""

PIXELS_PER_BYTE = 256
"""Pixels of all images in one request for each byte of their files, besides the pixels that one image may have.

Photos have 3 to 16, screenshots up to 100, scanned text of one bit up to 200. Blank WebP files have 20,000 and take
32 ns for each pixel.
"""

MAX_SIDE = 2**16
"""Pixels of one side of an image, as many as a JPEG can have.

Pillow holds the interpreter's lock while it computes the coefficients of a resize, 0.3 us for each pixel of a side.
"""

MAX_EXCESS = 4
"""Pixels that a decoder may visit for each of an image: the tiles of a TIFF and AVIF, layers of colour and alpha."""

TABLE_COST = 64
"""How many times as long as pixels the tables of TIFF and AVIF take, byte for byte: they are read in Python."""

MAX_TABLE_COST = 2**20
"""What the tables of one file count for at most: their number of entries is limited."""

_SMALL_PIXELS = 2**20
"""Pixels that a decoder may visit besides these."""

_PROBED_PIXELS = 2**24

DECODING_BYTES_PER_PIXEL = 32
"""Bytes of memory for each pixel while it is decoded, at most. Decoders report a lack of memory as damaged data."""


class EncodedImage(NamedTuple):
    """A stripped image file of which only the header has been read; its decoder visits `decoded_pixels` if not 0."""

    width: int
    height: int
    orientation: int
    format: str | None
    content: bytes
    decoded_pixels: int = 0

    @property
    def cost(self) -> int:
        """Cost of decoding, in pixels."""
        return max(self.width * self.height, self.decoded_pixels)

    def image(self) -> Image.Image:
        """Open the image without decoding it."""
        return Image.open(io.BytesIO(self.content), formats=[self.format or ""])


def configure_pillow_limits() -> None:
    """Configure Pillow for the whole process: import its codecs, and switch off its size limit and its warnings.

    `open_image` has a limit of its own. Pillow's UserWarnings describe odd files of clients, which no operator can act
    on, and Python keeps each distinct one in memory. Deprecation warnings stay on.
    """
    Image.preinit()
    Image.MAX_IMAGE_PIXELS = None
    TiffImagePlugin.READ_LIBTIFF = True  # also for files without compression, whose strips Pillow reads in Python
    _silence_libtiff()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the codec threads are as many as there are cores for them
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def _silence_libtiff() -> None:
    """Keep libtiff from writing about each damaged file to stderr, past the log; its errors are exceptions as well."""
    with suppress(AttributeError, OSError):  # libtiff is no library of its own, so it has no name to find it by
        set_handler = CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [c_void_p], c_void_p
        set_handler(None)


def table_cost(contents: Sequence[bytes]) -> int:
    """Return how many bytes the tables of TIFF and AVIF files count for besides their own: they are read in Python."""
    slow = [content for content in contents if content.startswith(tiff.SIGNATURES) or is_avif(content)]
    return sum(min(TABLE_COST * len(content), MAX_TABLE_COST) for content in slow)


def open_image(content: bytes, index: int, max_pixels: int) -> Png | EncodedImage:
    """Read the header of an image file, and keep only the bytes that determine its pixels.

    Raises `UnprocessableContent` for a file that is not an image, and `ContentTooLarge` for one with more than
    `max_pixels`, a side longer than `MAX_SIDE`, or more scans, segments, blocks or chunks than an image needs.
    """
    try:
        image = open_png(content) if content.startswith(SIGNATURE) else _header_of(strip(content))
    except TooManyPieces as error:
        raise ContentTooLarge(f"images[{index}]: {error}, which no image file needs") from None
    except MemoryError:
        raise
    except Unreadable as error:
        raise UnprocessableContent(f"images[{index}]: {error}") from None
    except Exception:  # noqa: BLE001  # Pillow's parsers raise any exception for a damaged header
        _require_memory(min(max_pixels, _PROBED_PIXELS))
        raise UnprocessableContent(f"images[{index}]: expected {FORMAT_NAMES}, got {_described(content)}") from None
    if max(image.width, image.height) > MAX_SIDE:
        raise ContentTooLarge(
            f"images[{index}]: {image.width} x {image.height} has a side of more than {MAX_SIDE} pixels"
        )
    if image.width * image.height > max_pixels:
        raise ContentTooLarge(
            f"images[{index}]: {image.width} x {image.height} is more than the {max_pixels} pixels allowed"
        )
    return image


def _described(content: bytes) -> str:
    """Describe a file that is no image of a known format."""
    if is_heic(content):
        return "HEIC, which is not read"
    return f"{len(content)} bytes of another format" if content else "an empty file"


def probe_images(
    contents: Sequence[bytes],
    shape: tuple[int, ...],
    max_pixels: int,
    expired: Callable[[], bool] = lambda: False,
) -> list[Png | EncodedImage | np.ndarray]:
    """Open each file as `open_image` does; a plain PNG of the model's shape is decoded at once, which is as fast.

    Raises what `open_image` raises, `ContentTooLarge` for more pixels than all images may have (`MAX_PIXELS`, fewer for
    small files), and `DeadlineExceeded` before the next image once `expired`.
    """
    size = sum(map(len, contents))
    limit = max(max_pixels, min(MAX_PIXELS, max_pixels + PIXELS_PER_BYTE * size))
    may_be_plain = shape[1] * shape[2] <= max_pixels
    opened: list[Png | EncodedImage | np.ndarray] = []
    pixels = 0
    for index, content in enumerate(contents):
        if expired():
            raise DeadlineExceeded(f"images[{index}] was not read within the request's deadline")
        array = read_png(content, shape) if may_be_plain else None
        image = open_image(content, index, max_pixels) if array is None else array
        pixels += _pixels(image)
        if pixels > limit:
            raise ContentTooLarge(
                f"images[0] to images[{index}] have {pixels} pixels, more than the {limit} allowed for {len(contents)} "
                f"images of {size} bytes together; send fewer in one request"
            )
        opened.append(image)
    return opened


def _pixels(image: Png | EncodedImage | np.ndarray) -> int:
    """Return the pixels that the decoder of an image visits."""
    if isinstance(image, EncodedImage):
        return image.cost
    height, width = upright_size(image)
    return height * width


def decode_images(
    images: Sequence[Png | EncodedImage | Image.Image | np.ndarray],
    shape: Sequence[int],
    fit: Fit,
    expired: Callable[[], bool] = lambda: False,
    first: int = 0,
    resampling: Filter = "bilinear",
) -> np.ndarray:
    """Decode images and fit them to the model's [C, H, W], one after the other; `first` is the index of the first one.

    Raises `UnprocessableContent` for a damaged image, and `DeadlineExceeded` before the next image once `expired`.
    """
    decoded = []
    for index, image in enumerate(images, first):
        if expired():
            raise DeadlineExceeded(f"images[{index}] was not decoded within the request's deadline")
        decoded.append(_decode(image, index, shape, fit, resampling))
    return np.stack(decoded) if len(decoded) > 1 else decoded[0][None]


def fit_array(
    array: np.ndarray,
    shape: Sequence[int],
    fit: Fit,
    expired: Callable[[], bool] = lambda: False,
    resampling: Filter = "bilinear",
) -> np.ndarray:
    """Fit an array [N, H, W] or [N, H, W, C] to the model's [C, H, W]: uint8, or floats in [0, 1].

    Raises `UnprocessableContent` for other floats, and `DeadlineExceeded` before the next image once `expired`.
    """
    levels = array if array.dtype == np.uint8 else _grey_levels(array, expired)
    images = levels[..., None] if levels.ndim == 3 else levels
    channels, height, width = shape
    if images.shape[1:] == (height, width, channels):
        return np.require(
            images.transpose(0, 3, 1, 2), requirements=("C", "W")
        )  # torch warns of arrays of read-only bytes
    fitted = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]
    return decode_images(fitted, shape, fit, expired, resampling=resampling)


def _grey_levels(array: np.ndarray, expired: Callable[[], bool]) -> np.ndarray:
    """Convert floats in [0, 1] to uint8, one image after the other, so that no large copies are made."""
    levels = np.empty(array.shape, np.uint8)
    for index, image in enumerate(array):
        if expired():
            raise DeadlineExceeded(f"images[{index}] was not read within the request's deadline")
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):
            raise UnprocessableContent(f"images[{index}]: expected floats in [0, 1], got {low:g} to {high:g}")
        levels[index] = image.astype(np.float32) * 255 + 0.5
    return levels


def write_npy(array: np.ndarray) -> bytes:
    """Write an array as an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _header_of(file: Stripped) -> EncodedImage:
    with Image.open(io.BytesIO(file.content), formats=[file.format] if file.format else _BY_PILLOW) as image:
        width, height = image.width, image.height
        if file.pixels > MAX_EXCESS * width * height + _SMALL_PIXELS:
            raise Unreadable(f"the data have {file.pixels} pixels for an image of {width} x {height}")
        orientation = image.getexif().get(ORIENTATION_TAG, UPRIGHT) if image.format == "AVIF" else file.orientation
        return EncodedImage(width, height, orientation, image.format, file.content, file.pixels)


def _decode(
    image_file: Png | EncodedImage | Image.Image | np.ndarray,
    index: int,
    shape: Sequence[int],
    fit: Fit,
    resampling: Filter,
) -> np.ndarray:
    if isinstance(image_file, np.ndarray):
        return image_file
    channels, height, width = shape
    try:
        flat = _normalise(image_file, channels)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # as in `open_image`
        _require_memory(image_file.width * image_file.height)
        raise UnprocessableContent(f"images[{index}]: the {image_file.format} data is truncated or damaged") from None
    if fit == "exact" and flat.size != (width, height):
        raise UnprocessableContent(
            f"images[{index}]: expected {width} x {height} pixels, got {flat.width} x {flat.height}"
        )
    fitted = np.array(_fitted(flat, (width, height), fit, _FILTERS[resampling]))
    return fitted[None] if channels == 1 else fitted.transpose(2, 0, 1)


def _normalise(image_file: Png | EncodedImage | Image.Image, channels: int) -> Image.Image:
    if isinstance(image_file, Image.Image):
        return upright(image_file, channels, UPRIGHT)
    with image_file.image() as image:
        return upright(image, channels, image_file.orientation)


def _require_memory(pixels: int) -> None:
    """Raise `MemoryError` if there is not enough memory to decode so many pixels."""
    np.empty(DECODING_BYTES_PER_PIXEL * pixels, np.uint8)  # never written to, so no memory is used


def upright_size(image: Png | EncodedImage | np.ndarray) -> tuple[int, int]:
    """Return the size (H, W) of an image after its EXIF orientation is applied."""
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[2]
    turned = image.orientation >= QUARTER_TURNS
    return (image.width, image.height) if turned else (image.height, image.width)


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit, resampling: Image.Resampling) -> Image.Image:
    if image.size == size:
        return image
    if fit == "pad":
        return ImageOps.pad(image, size, resampling)
    if fit == "crop":
        return ImageOps.fit(image, size, resampling)
    return image.resize(size, resampling)
