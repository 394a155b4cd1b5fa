"""Plain PNG files are read as Pillow reads them, and other files are left to the general reader."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, PngImagePlugin

from app.codecs.png import read_png, write_png
from tests.support.image_files import header_of_png, stored

sides = st.integers(1, 40)
images = st.tuples(st.sampled_from((1, 3)), sides, sides).flatmap(lambda shape: arrays(np.uint8, shape))


def image_file(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@given(images)
def test_a_written_file_is_read_by_the_reader_and_by_pillow(pixels):
    content = write_png(pixels)
    assert np.array_equal(by_pillow(content), pixels)
    assert np.array_equal(read_png(content, pixels.shape), pixels)


@given(images, st.sampled_from(({}, {"compress_level": 0}, {"compress_level": 1}, {"optimize": True})))
def test_plain_files_of_pillow_are_read(pixels, options):
    content = stored(image_file(pixels), **options)
    assert np.array_equal(read_png(content, pixels.shape), pixels)
    for other in ((4 - len(pixels), *pixels.shape[1:]), (len(pixels), pixels.shape[1] + 1, pixels.shape[2])):
        assert read_png(content, other) is None


def sentence() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "seven")
    return text


GREY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11), np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 3
OTHERS = {
    "transparent": stored(GREY.convert("LA")),
    "a transparent colour": stored(GREY, transparency=7),
    "palette": stored(GREY.convert("P")),
    "one bit": stored(GREY.convert("1")),
    "sixteen bits": stored(GREY.convert("I;16")),
    "turned": stored(GREY, exif=TURNED),
    "text": stored(GREY, pnginfo=sentence()),
    "resolution": stored(GREY, dpi=(300, 300)),
    "another format": stored(GREY, "BMP"),
    "a header alone": header_of_png(11, 9),
    "something after the end": stored(GREY) + b"\n",
    "nothing": b"",
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_files_that_are_not_plain_are_not_read(content):
    assert read_png(content, (1, 9, 11)) is None


@settings(max_examples=300)
@given(st.data(), images)
def test_every_file_that_is_read_has_the_pixels_that_pillow_reads(data, pixels):
    content = bytearray(write_png(pixels))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):  # the checksum fits: what is wrong shows only as it is unpacked
        content[-16:-12] = zlib.crc32(content[37:-16]).to_bytes(4, "big")
    found = read_png(bytes(content), pixels.shape)
    if found is not None:
        assert np.array_equal(found, by_pillow(bytes(content)))
