"""TIFF files: the first page in 8 and 16 bits, and files that would cost more than their image are refused."""

import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.codecs import tiff
from app.codecs.images import decode_images, probe_images
from app.codecs.metadata import MAX_PIECES
from app.errors import ContentTooLarge, UnprocessableContent
from model.data.images import upright
from tests.support.image_files import stored

NOISE = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
COLOUR = Image.fromarray(NOISE)
SHAPE = (3, 9, 11)


def load(content: bytes, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return decode_images(probe_images([content], shape, 2**24), shape, "exact")[0]


def file(tags: dict[int, tuple[int, ...]], data: bytes, order: str = "<") -> bytes:
    """A TIFF whose data begin at the 8th byte; all values are LONG."""
    start = 8 + len(data)
    at, entries, more = start + 6 + 12 * len(tags), b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values))
        entries += packed if len(values) == 1 else struct.pack(f"{order}I", at + len(more))
        more += packed if len(values) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + more


def grey(data: bytes, width: int = 11, height: int = 9, **changed: Any) -> bytes:
    tags = {
        tiff.WIDTH: (width,),
        tiff.HEIGHT: (height,),
        tiff.BITS: (8,),
        tiff.PHOTOMETRIC: (1,),
        tiff.STRIPS: (8,),
        tiff.STRIP_BYTES: (len(data),),
    }
    tags |= {getattr(tiff, name): value for name, value in changed.items()}
    return file({tag: value for tag, value in tags.items() if value}, data)


def test_a_repeated_tag_is_refused_since_many_could_share_many_values():
    entry = struct.pack("<HHII", tiff.STRIPS, 4, 100, 8)
    content = b"II*\0" + struct.pack("<IH", 8, 2) + entry * 2 + bytes(4) + bytes(400)
    with pytest.raises(UnprocessableContent, match="a tag is repeated in the directory of the TIFF"):
        load(content)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_all_modes_and_compressions_have_the_pixels_of_pillow(mode, compression):
    alpha = Image.fromarray(NOISE[..., 0])
    image = COLOUR.convert(mode) if mode != "LA" else Image.merge("LA", (alpha, alpha))
    expected = np.asarray(upright(image, 3, 1)).transpose(2, 0, 1)
    np.testing.assert_array_equal(load(stored(image, "TIFF", compression=compression)), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_of_grey_are_scaled(order):
    levels = (NOISE[..., 0].astype(np.uint32) * 257).astype(f"{order}u2")
    content = file(
        {
            tiff.WIDTH: (11,),
            tiff.HEIGHT: (9,),
            tiff.BITS: (16,),
            tiff.PHOTOMETRIC: (1,),
            tiff.STRIPS: (8,),
            tiff.STRIP_BYTES: (198,),
        },
        levels.tobytes(),
        order,
    )
    np.testing.assert_array_equal(load(content, (1, 9, 11))[0], NOISE[..., 0])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
def test_16_bits_of_colour_are_scaled(order, planar):
    levels = (NOISE.astype(np.uint32) * 257).astype(f"{order}u2")
    data = levels.tobytes() if planar == 1 else levels.transpose(2, 0, 1).tobytes()
    content = file(
        {
            tiff.WIDTH: (11,),
            tiff.HEIGHT: (9,),
            tiff.BITS: (16, 16, 16),
            tiff.PHOTOMETRIC: (2,),
            tiff.SAMPLES: (3,),
            tiff.PLANAR: (planar,),
            tiff.STRIPS: (8,) if planar == 1 else (8, 206, 404),
            tiff.STRIP_BYTES: (594,) if planar == 1 else (198, 198, 198),
        },
        data,
        order,
    )
    np.testing.assert_array_equal(load(content), NOISE.transpose(2, 0, 1))


def test_tiles_are_joined():
    padded = np.zeros((16, 32), np.uint8)
    padded[:9, :20] = np.arange(180).reshape(9, 20)
    content = grey(
        padded[:, :16].tobytes() + padded[:, 16:].tobytes(),
        20,
        STRIPS=None,
        STRIP_BYTES=None,
        TILE_WIDTH=(16,),
        TILE_HEIGHT=(16,),
        TILES=(8, 264),
        TILE_BYTES=(256, 256),
    )
    np.testing.assert_array_equal(load(content, (1, 9, 20))[0], padded[:9, :20])


def test_only_the_first_page_is_read():
    pages = [Image.new("RGB", (500, 500))] * 3
    np.testing.assert_array_equal(
        load(stored(COLOUR, "TIFF", save_all=True, append_images=pages)), NOISE.transpose(2, 0, 1)
    )


def test_directories_in_a_loop_are_not_followed():
    content = bytearray(stored(COLOUR, "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    end = start + 2 + 12 * count
    struct.pack_into("<I", content, end, start)
    np.testing.assert_array_equal(load(bytes(content)), NOISE.transpose(2, 0, 1))
    own = struct.pack("<I", len(content))
    links = b"".join(
        struct.pack("<HHI", tag, 4, 1) + own for tag in (330, 34_665, 34_853)
    )  # sub-directories, EXIF, GPS
    loop = content[:4] + own + content[8:] + struct.pack("<H", count + 3) + content[start + 2 : end] + links + own
    np.testing.assert_array_equal(load(bytes(loop)), NOISE.transpose(2, 0, 1))


def test_the_orientation_is_applied():
    turned = stored(COLOUR.transpose(Image.Transpose.ROTATE_90), "TIFF", tiffinfo={tiff.ORIENTATION: 6})
    np.testing.assert_array_equal(load(turned), NOISE.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (stored(COLOUR, "TIFF", compression="jpeg"), "without compression or with LZW, Deflate or PackBits, got JPEG"),
        (grey(bytes(99), COMPRESSION=(4,)), "got fax (group 4)"),
        (grey(bytes(99), COMPRESSION=(777,)), "got the compression 777"),
        (grey(bytes(99), COMPRESSION=(5,), PREDICTOR=(3,)), "got the predictor 3"),
        (stored(Image.new("F", (9, 9)), "TIFF"), "expected a TIFF of grey, RGB, palette or CMYK"),
        (stored(Image.new("I", (9, 9)), "TIFF"), "got photometric interpretation 1 with 1 samples of 32 bits"),
        (stored(COLOUR, "TIFF", big_tiff=True), "expected PNG, "),
        (b"MM\x2a\0" + stored(COLOUR, "TIFF")[4:], "expected PNG, "),
        (grey(bytes(198), BITS=(16,), PHOTOMETRIC=(0,)), "got photometric interpretation 0 with 1 samples of 16 bits"),
        (grey(bytes(99), STRIP_BYTES=(5000,)), "the strips or tiles of the TIFF do not fit its size"),
        (grey(bytes(99), STRIPS=(8, 8), STRIP_BYTES=(9, 9)), "the strips or tiles of the TIFF do not fit its size"),
        (grey(bytes(99), WIDTH=(0,)), "the directory of the TIFF is damaged"),
        (grey(bytes(99), STRIP_BYTES=None), "the strips or tiles of the TIFF do not fit its size"),
        (
            grey(
                bytes(99),
                STRIPS=None,
                STRIP_BYTES=None,
                COMPRESSION=(5,),
                TILE_WIDTH=(2**14,),
                TILE_HEIGHT=(2**14,),
                TILES=(8,),
                TILE_BYTES=(99,),
            ),
            "the data have 268435456 pixels for an image of 11 x 9",
        ),
        (b"II*\0\xff\xff\xff\xff", "the directory of the TIFF is damaged"),
        (b"MM\0*", "the directory of the TIFF is damaged"),
        (grey(bytes(20)), "the strips or tiles of the TIFF do not fit its size"),
    ],
)
def test_other_files_are_refused(content, sentence):
    with pytest.raises(UnprocessableContent, match="images") as refused:
        load(content)
    assert sentence in refused.value.detail


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (grey(bytes(20_000), 1, 20_000, STRIP_ROWS=(1,)), f"more than {MAX_PIECES} strips or tiles"),
        (grey(bytes(99), STRIPS=(8,) * 20_000), f"more than {MAX_PIECES} strips or tiles"),
        (b"II*\0\x08\0\0\0\xff\xff" + bytes(10**6), "more than 1024 tags"),
        (grey(bytes(99), 2**20, 2**20), "1048576 x 1048576"),
    ],
)
def test_files_that_cost_too_much_are_refused(content, sentence):
    with pytest.raises((ContentTooLarge, UnprocessableContent)) as refused:
        load(content)
    assert sentence in refused.value.detail or "do not fit its size" in refused.value.detail


def test_nothing_of_a_damaged_file_is_written_to_the_log(capfd, caplog):
    content = bytearray(stored(COLOUR, "TIFF", compression="tiff_lzw"))
    content[10:40] = b"\xff" * 30
    with pytest.raises(UnprocessableContent, match="truncated or damaged"):
        load(bytes(content))
    assert capfd.readouterr().err == ""
    assert not caplog.records


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]), st.data())
def test_a_damaged_file_is_decoded_or_refused(compression, data):
    damaged = bytearray(stored(COLOUR, "TIFF", compression=compression))
    directory = struct.unpack("<I", damaged[4:8])[0]
    places = st.integers(0, len(damaged) - 1) | st.integers(directory, len(damaged) - 1)
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    with suppress(UnprocessableContent, ContentTooLarge):
        assert load(bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])).shape == SHAPE
