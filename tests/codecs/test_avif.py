"""AVIF files: still images, and files that would cost more than their image are refused."""

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from app.codecs import avif
from app.codecs.images import decode_images, probe_images
from app.errors import ContentTooLarge, UnprocessableContent
from model.data.images import upright
from tests.support.image_files import stored

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow has no AVIF")

NOISE = np.random.default_rng(0).integers(0, 256, (34, 42, 4), np.uint8)
X, Y = np.meshgrid(range(42), range(34))
PIXELS = np.stack([6 * X, 7 * Y, 3 * X + 3 * Y], -1).astype(np.uint8)
COLOUR = Image.fromarray(PIXELS)
SHAPE = (3, 34, 42)
OPTIONS = {"speed": 10}
FILE = stored(COLOUR, "AVIF", **OPTIONS)
FILES = [FILE, stored(Image.fromarray(NOISE), "AVIF", **OPTIONS)]


def load(content: bytes, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return decode_images(probe_images([content], shape, 2**24), shape, "exact")[0]


def changed(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"quality": 100, "subsampling": "4:4:4"}])
def test_a_still_image_has_the_pixels_of_pillow(mode, options):
    content = stored(Image.fromarray(NOISE).convert(mode), "AVIF", **OPTIONS, **options)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(upright(image, 3, 1)).transpose(2, 0, 1)
    np.testing.assert_array_equal(load(content), expected)


def test_alpha_counts_as_decoded_pixels():
    assert [avif.strip_avif(content).pixels for content in FILES] == [34 * 42, 2 * 34 * 42]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = stored(COLOUR, "AVIF", **OPTIONS, exif=exif)
    expected = np.asarray(upright(COLOUR, 3, orientation)).transpose(2, 0, 1)
    read = load(content, expected.shape)
    assert np.abs(read.astype(int) - expected).mean() < 8  # against some 80 of another orientation


def test_metadata_and_the_frames_of_an_animation_are_not_read():
    exif = Image.Exif()
    exif[0x010E] = "a description" * 100
    described = avif.strip_avif(stored(COLOUR, "AVIF", **OPTIONS, exif=exif, xmp=b"<x/>")).content
    with Image.open(io.BytesIO(described)) as image:
        assert not {"exif", "xmp"} & image.info.keys()
    black = Image.new("RGB", COLOUR.size)
    animated = stored(COLOUR, "AVIF", **OPTIONS, save_all=True, append_images=[black] * 5)
    assert animated[8:12] == b"avis"
    stripped = avif.strip_avif(animated).content
    assert stripped[8:12] == b"avif"
    assert b"moov" not in stripped
    assert np.abs(load(animated).astype(int) - PIXELS.transpose(2, 0, 1)).mean() < 8


def test_the_size_of_a_frame_counts_and_not_the_one_that_the_file_names():
    large = stored(Image.new("RGB", (3000, 2000)), "AVIF", **OPTIONS)
    hidden = changed(large, struct.pack(">II", 3000, 2000), struct.pack(">II", 8, 8))
    with pytest.raises(UnprocessableContent, match="the data have 6000000 pixels for an image of 8 x 8"):
        load(hidden, (3, 8, 8))


def test_hidden_pixels_of_small_files_count_among_those_of_all_images():
    large = stored(Image.new("RGB", (1000, 1000)), "AVIF", **OPTIONS)
    hidden = changed(large, struct.pack(">II", 1000, 1000), struct.pack(">II", 8, 8))
    with pytest.raises(ContentTooLarge, match=r"images\[0\] to images\[\d+\] have \d+ pixels"):
        probe_images([hidden] * 1000, (3, 8, 8), 2**24)


def box(kind: bytes, *content: bytes, version: int | None = None) -> bytes:
    head = b"" if version is None else struct.pack(">I", version << 24)
    return struct.pack(">I4s", 8 + len(head) + sum(map(len, content)), kind) + head + b"".join(content)


def boxes(content: bytes, *path: bytes) -> list[bytes]:
    """The boxes in a file, or in the box at a path of it."""
    start, end = 0, len(content)
    for kind in path:
        (found,) = [b for b in avif._boxes(content, start, end) if b.kind == kind]
        start, end = found.start + (4 if kind == b"meta" else 0), found.end
    return [content[b.at - 4 : b.end] for b in avif._boxes(content, start, end)]


TILE = stored(Image.fromarray(PIXELS[:32, :32].repeat(2, 0).repeat(2, 1)), "AVIF", **OPTIONS)


def grid(rows: int, columns: int, tiles: list[int], items: int) -> bytes:
    """A grid of the numbers of tiles, of so many items from number 2 that share the bytes of `TILE`."""
    size = struct.pack(">II", columns * 64, rows * 64)
    canvas, others = b"\0\1" + bytes([rows - 1, columns - 1]) + size, boxes(TILE, b"meta", b"iprp", b"ipco")
    data = canvas + next(part[8:] for part in boxes(TILE) if part[4:8] == b"mdat")
    numbers = range(2, 2 + items)
    names = [box(b"infe", struct.pack(">HH4sx", n, 0, b"av01" if n > 1 else b"grid"), version=2) for n in (1, *numbers)]
    tile = bytes(128 | n for n in range(2, 2 + len(others)))
    uses = [struct.pack(">HBB", 1, 1, 129), *(struct.pack(">HB", n, len(tile)) + tile for n in numbers)]
    properties = box(
        b"iprp",
        box(b"ipco", box(b"ispe", size, version=0), *others),
        box(b"ipma", struct.pack(">I", len(uses)), *uses, version=0),
    )
    references = struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *tiles)

    def head(start: int) -> bytes:
        places = [(1, start, len(canvas)), *((n, start + len(canvas), len(data) - len(canvas)) for n in numbers)]
        table = [struct.pack(">HHHII", number, 0, 1, *place) for number, *place in places]
        meta = box(
            b"meta",
            box(b"hdlr", struct.pack(">I4s13x", 0, b"pict"), version=0),
            box(b"pitm", struct.pack(">H", 1), version=0),
            box(b"iloc", struct.pack(">HH", 0x4400, len(table)), *table, version=0),
            box(b"iinf", struct.pack(">H", len(names)), *names, version=0),
            box(b"iref", box(b"dimg", references), version=0),
            properties,
            version=0,
        )
        return box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + meta

    return head(len(head(0)) + 8) + box(b"mdat", data)


def test_tiles_of_a_grid_are_joined_and_count_as_decoded_pixels():
    content = grid(1, 2, [2, 3], 2)
    assert avif.strip_avif(content).pixels == 4 * 64 * 64
    read = load(content, (3, 64, 128))
    seam = np.abs(read.astype(int) - np.concatenate([load(TILE, (3, 64, 64))] * 2, -1)).max((0, 1))
    assert [*np.flatnonzero(seam)] in ([], [63, 64])  # between two tiles the colours are interpolated


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (grid(2, 2, [2, 2, 2, 2], 1), UnprocessableContent),
        (grid(1, 2, [1, 2], 1), UnprocessableContent),
        (grid(1, 2, [7, 8], 1), UnprocessableContent),
        (grid(256, 256, [2] * 2**15, 1), UnprocessableContent),
        (grid(20, 20, [*range(2, 402)], 400), ContentTooLarge),
    ],
    ids=["a tile in several places", "itself as a tile", "missing tiles", "too few tiles", "tiles that share bytes"],
)
def test_grids_that_would_cost_more_than_their_bytes_are_refused(content, error):
    with pytest.raises(error):
        load(content)


def test_more_than_one_frame_in_an_image_is_refused():
    at = FILE.index(b"mdat") + 4
    data = FILE[at:]
    sequence = data[: 2 + data[1]]
    frame = data[len(sequence) :]
    doubled = bytearray(FILE[:at] + sequence + frame + frame)
    doubled[at - 8 : at - 4] = (len(doubled) - at + 8).to_bytes(4)
    length, new = struct.pack(">I", len(data)), struct.pack(">I", len(data) + len(frame))
    with pytest.raises(UnprocessableContent, match="one frame in each image, got 2"):
        load(changed(bytes(doubled), length, new))


def test_large_tables_are_refused():
    at, size = FILE.index(b"meta"), int.from_bytes(FILE[FILE.index(b"meta") - 4 :][:4])
    free = struct.pack(">I4s", 2**18, b"free") + bytes(2**18 - 8)
    large = FILE[: at - 4] + struct.pack(">I", size + 2**18) + FILE[at : at - 4 + size] + free + FILE[at - 4 + size :]
    with pytest.raises(ContentTooLarge, match="more than 131072 bytes of tables and profiles"):
        load(large)


@pytest.mark.parametrize("content", [FILE[:200], FILE[:-50], FILE[:12], FILE[:8] + b"avif"])
def test_a_truncated_file_is_refused(content):
    with pytest.raises(UnprocessableContent, match="images"):
        load(content)


def test_a_file_of_another_codec_is_no_avif():
    assert not avif.is_avif(FILE[:8] + b"heic" + FILE[12:16] + b"heic" * 20)
    assert avif.is_avif(struct.pack(">I", 24) + b"ftypmif1" + bytes(4) + b"mif1avif")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_a_damaged_file_is_decoded_or_refused(content, data):
    damaged = bytearray(content)
    places = st.integers(0, len(damaged) - 1) | st.integers(0, 400)
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    with suppress(UnprocessableContent, ContentTooLarge):
        assert load(bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])).shape == SHAPE
