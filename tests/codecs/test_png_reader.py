"""PNG files of every kind are read as Pillow reads them, at a limited cost."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.codecs.images import decode_images, open_image, probe_images
from app.codecs.metadata import MAX_PIECES
from app.codecs.png import write_png
from app.codecs.png_reader import MAX_UNCHECKED_BYTES, MAX_UNPACKED_TEXT, open_png
from app.errors import ContentTooLarge, UnprocessableContent
from model.data.images import upright
from tests.support.image_files import SAMPLES, chunk, drawn_rows, png, stored

FORMAT_NAMES = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 8),
    (0, 16),
    (2, 8),
    (2, 16),
    (3, 1),
    (3, 2),
    (3, 4),
    (3, 8),
    (4, 8),
    (4, 16),
]
FORMAT_NAMES += [(6, 8), (6, 16)]
SIZES = [(1, 1), (2, 1), (1, 2), (3, 1), (5, 1), (1, 9), (4, 4), (9, 11), (17, 8)]
LIMIT = 2**24


def palette(depth: int) -> bytes:
    return chunk(b"PLTE", np.random.default_rng(0).integers(0, 256, 3 * 2**depth, np.uint8).tobytes())


def drawn(colour: int, depth: int, size: tuple[int, int], interlaced: bool, before: bytes = b"") -> bytes:
    before = (palette(depth) if colour == 3 else b"") + before
    rows = drawn_rows(*size, depth * SAMPLES[colour], interlaced)
    return png(*size, depth, colour, rows, interlaced, before)


def load(content: bytes, channels: int, size: tuple[int, int]) -> np.ndarray:
    shape = (channels, size[1], size[0])
    return decode_images(probe_images([content], shape, LIMIT), shape, "exact")[0]


def by_pillow(content: bytes, channels: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(upright(image, channels))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), FORMAT_NAMES)
def test_every_colour_type_depth_and_size_is_read_as_pillow_reads_it(colour, depth, interlaced):
    for size in SIZES:
        content = drawn(colour, depth, size, interlaced)
        for channels in (1, 3):
            assert np.array_equal(load(content, channels, size), by_pillow(content, channels))


@pytest.mark.parametrize("alpha", [b"\0", b"\xff\0", b"\x07\x80", b"\xff\xff"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_palette_entries_are_read_as_pillow_reads_them(depth, alpha):
    content = drawn(3, depth, (9, 11), interlaced=True, before=chunk(b"tRNS", alpha))
    for channels in (1, 3):
        assert np.array_equal(load(content, channels, (9, 11)), by_pillow(content, channels))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_compared_with_all_its_bits_and_becomes_white(depth, interlaced):
    samples = np.arange(16, dtype=np.uint16) % 2 ** min(depth, 3)  # 16 bits: most differ in the lower byte alone
    words = samples.astype(">u2").tobytes() if depth == 16 else samples.astype(np.uint8).tobytes()
    packed = words if depth >= 8 else np.packbits(np.unpackbits(samples.astype(np.uint8)[:, None], axis=1)[:, -depth:])
    image = png(16, 1, depth, 0, b"\0" + bytes(packed), before=chunk(b"tRNS", b"\0\1"))
    if interlaced:  # the same samples in the order of the passes
        order = [*range(0, 16, 8), *range(4, 16, 8), *range(2, 16, 4), *range(1, 16, 2)]
        passes = [samples[order[a:b]] for a, b in ((0, 2), (2, 4), (4, 8), (8, 16))]
        rows = b"".join(
            b"\0"
            + (
                p.astype(">u2").tobytes()
                if depth == 16
                else np.packbits(np.unpackbits(p.astype(np.uint8)[:, None], axis=1)[:, -depth:]).tobytes()
            )
            for p in passes
        )
        image = png(16, 1, depth, 0, rows, interlaced=True, before=chunk(b"tRNS", b"\0\1"))
    levels = np.round(samples / (2**depth - 1) * 255).astype(np.uint8)
    expected = np.where(samples == 1, 255, levels)
    assert load(image, 1, (16, 1))[0, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_is_compared_with_all_its_bits_and_becomes_white(depth):
    scale = 1 if depth == 8 else 257
    colours = np.array([[5, 6, 7], [5, 6, 8], [7, 6, 5], [5, 6, 7]], np.uint16) * scale
    if depth == 16:
        colours[3, 2] += 1  # of the same upper byte
    kind = np.uint8 if depth == 8 else ">u2"
    marked = chunk(b"tRNS", (np.array([5, 6, 7]) * scale).astype(">u2").tobytes())
    content = png(4, 1, depth, 2, b"\0" + colours.astype(kind).tobytes(), before=marked)
    seen = load(content, 3, (4, 1))[:, 0].T.tolist()
    assert seen[:3] == [[255] * 3, [5, 6, 8], [7, 6, 5]]
    assert seen[3] == ([255] * 3 if depth == 8 else [5, 6, 7])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), FORMAT_NAMES)
def test_a_complete_stream_with_too_few_rows_is_refused(colour, depth, interlaced):
    for size in SIZES[1:]:
        before = palette(depth) if colour == 3 else b""
        bits = depth * SAMPLES[colour]
        for rows in (drawn_rows(*size, bits, interlaced), drawn_rows(*size, bits, interlaced, values=1)):
            content = png(*size, depth, colour, rows[:-1], interlaced, before)
            with pytest.raises(UnprocessableContent, match=r"images\[0\]: the PNG data is truncated or damaged"):
                load(content, 1, size)
            assert load(png(*size, depth, colour, rows, interlaced, before), 1, size).shape == (1, *size[::-1])


def test_a_plain_file_with_3_of_28_rows_is_refused():
    for level in (0, 1, 255):
        row = b"\0" + bytes([level] * 28)
        header = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
        content = (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 3)) + chunk(b"IEND")
        )
        with pytest.raises(UnprocessableContent, match=r"images\[0\]: the PNG data is truncated or damaged"):
            load(content, 1, (28, 28))


@pytest.mark.parametrize("level", [0, 1, 255])
def test_an_image_of_one_grey_level_is_complete(level):
    pixels = np.full((1, 28, 28), level, np.uint8)
    assert np.array_equal(load(write_png(pixels), 1, (28, 28)), pixels)
    assert np.array_equal(load(png(28, 28, 8, 0, (b"\0" + bytes([level] * 28)) * 28), 1, (28, 28)), pixels)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8))


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x112, 3, 1, orientation, 0) + bytes(4)


def text(keyword: str, words: str, packed: bool, international: bool = False) -> bytes:
    info = PngInfo()
    if international:
        info.add_itxt(keyword, words, "en", "keyword", zip=packed)
    else:
        info.add_text(keyword, words, zip=packed)
    return b"".join(chunk(kind, data) for kind, data, *_ in info.chunks)


def raw_profile(orientation: int, packed: bool) -> bytes:
    digits = exif(orientation).hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return text("Raw profile type exif", "\n".join(["", "exif", f"{len(digits) // 2:8}", *lines, ""]), packed)


def xmp(orientation: int, packed: bool) -> bytes:
    return text("XML:com.adobe.xmp", f'<a tiff:Orientation="{orientation}"/>', packed, international=True)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(
    "metadata",
    [
        lambda turned: chunk(b"eXIf", exif(turned)),
        lambda turned: raw_profile(turned, packed=True),
        lambda turned: raw_profile(turned, packed=False),
        lambda turned: xmp(turned, packed=True),
        lambda turned: xmp(turned, packed=False),
        lambda turned: xmp(3, packed=False) + chunk(b"eXIf", exif(turned)),
    ],
)
def test_the_orientation_is_found_in_every_chunk_in_which_pillow_finds_it(metadata, orientation):
    plain = stored(NOISE)
    end = len(plain) - 12
    for content in (
        plain[:33] + metadata(orientation) + plain[33:],
        plain[:end] + metadata(orientation) + plain[end:],
    ):
        expected = by_pillow(content, 3)
        assert np.array_equal(load(content, 3, expected.shape[:0:-1]), expected)


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**20))) * 50,
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**24))) * 50,
        chunk(b"zTXt", b"Raw profile type exif\0\0no stream"),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  1\nno digits"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**24))) * 50,
        chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        chunk(b"gAMA") + chunk(b"cHRM") + chunk(b"pHYs") + chunk(b"sRGB") + chunk(b"acTL") + chunk(b"fcTL"),
        chunk(b"tEXt", bytes(2**20)),
        b"\0\0\0\0aaAaCRC?",
    ],
)
def test_other_chunks_change_no_pixel_and_are_not_decompressed(metadata):
    content = stored(NOISE)
    pixels = np.asarray(NOISE).transpose(2, 0, 1)
    assert np.array_equal(load(content[:33] + metadata + content[33:], 3, (11, 9)), pixels)


def test_a_file_with_too_many_chunks_is_refused():
    content, piece = stored(NOISE), chunk(b"aaAa")
    assert open_image(content[:33] + piece * (MAX_PIECES // 2) + content[33:], 0, LIMIT).width == 11
    for at in (33, len(content) - 12):
        with pytest.raises(ContentTooLarge, match=rf"images\[3\]: more than {MAX_PIECES} chunks"):
            open_image(content[:at] + piece * MAX_PIECES + content[at:], 3, LIMIT)
    assert open_image(content + piece * MAX_PIECES, 0, LIMIT).width == 11  # after the end they are none of it


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        chunk(b"IHDR"),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 9, 8, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 3, 0, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 1, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 1, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 2)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0))[:-1] + b"?",
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 3, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 3, 0, 0, 0)) + chunk(b"PLTE", bytes(4)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 3, 0, 0, 0)) + chunk(b"PLTE", bytes(771)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)) + chunk(b"tRNS", bytes(1)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)) + chunk(b"tRNS", bytes(5)),
    ],
)
def test_a_damaged_header_is_refused_by_the_index_of_the_image(broken):
    content = b"\x89PNG\r\n\x1a\n" + broken + chunk(b"IDAT", zlib.compress(bytes(90))) + chunk(b"IEND")
    with pytest.raises(UnprocessableContent, match=r"images\[2\]: the header of the PNG is damaged"):
        open_image(content, 2, LIMIT)


def test_the_default_image_of_an_animation_is_used():
    frames = [Image.fromarray(np.roll(np.asarray(NOISE), shift, 0)) for shift in range(3)]
    for default in (False, True):
        content = stored(frames[0], save_all=True, append_images=frames[1:], default_image=default)
        assert np.array_equal(load(content, 3, (11, 9)), np.asarray(NOISE).transpose(2, 0, 1))


def test_the_size_is_read_without_decoding():
    assert open_png(png(2**20, 2**20, 16, 6, b"")).width == 2**20


def empty_blocks(size: int) -> bytes:
    """A zlib stream of blocks that have their own tables and no data, before the rows of a black image of 28 x 28."""
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    lengths = "".join("100" if symbol in (1, 18) else "000" for symbol in order)  # the lower bit first
    header = "0" + "01" + "00000" + "00000" + "0111" + lengths
    zeros = "1" + f"{127:07b}" + "1" + f"{107:07b}"[::-1]  # 138 and 118 symbols that do not occur
    block = header + zeros + "0" + "0" + "0"  # the end of a block, a distance, and the end
    eight = np.packbits(np.array([*block * 8], np.uint8), bitorder="little").tobytes()
    return b"\x78\x9c" + eight * (size // len(eight)) + zlib.compress(bytes(28 * 29))[2:]


def test_many_empty_blocks_are_refused_and_few_are_read():
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0))
    few, many = (
        head + chunk(b"IDAT", empty_blocks(size)) + chunk(b"IEND") for size in (2**16, MAX_UNCHECKED_BYTES + 2**16)
    )
    assert not load(few, 1, (28, 28)).any()
    with pytest.raises(UnprocessableContent, match=r"images\[0\]: the PNG data is truncated or damaged"):
        load(many, 1, (28, 28))


@pytest.mark.parametrize("level", [0, 1])
def test_large_files_are_read_like_small_ones(level):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3000, 3000), np.uint8)
    content = stored(Image.fromarray(pixels[0]), compress_level=level)
    assert len(content) > MAX_UNCHECKED_BYTES
    assert np.array_equal(load(content, 1, (3000, 3000)), pixels)


def test_decompression_stops_after_the_pixels():
    packer = zlib.compressobj(9)
    mebibyte = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    more = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = mebibyte + more * (2**24 // len(more))  # 16 GiB
    content = png(28, 28, 8, 0, b"")
    header = content[:33]
    assert not load(header + chunk(b"IDAT", data) + chunk(b"IEND"), 1, (28, 28)).any()


def unpacked_bytes(work) -> int:
    """The bytes of memory that Python objects take at most while `work` runs."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("level", [0, 1, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_decompression_stops_after_the_rows(level, channels):
    rows = b"\0" + bytes([level] * 28 * channels)
    more = png(28, 28, 8, {1: 0, 3: 2}[channels], rows * 28 + bytes(2**24))
    plain = more[:33] + chunk(b"IDAT", zlib.compress(rows * 28 + bytes(2**24), 9)) + chunk(b"IEND")
    for content in (more, plain):
        assert unpacked_bytes(lambda content=content: load(content, channels, (28, 28))) < 2**19
        assert (load(content, channels, (28, 28)) == level).all()


def test_decompression_of_a_large_file_stops_after_the_rows():
    noise = np.random.default_rng(0).integers(0, 256, MAX_UNCHECKED_BYTES, np.uint8).tobytes()
    content = png(28, 28, 8, 0, (b"\0" + bytes([1] * 28)) * 28 + bytes(2**24) + noise)
    assert unpacked_bytes(lambda: load(content, 1, (28, 28))) < 2 * len(content) + 2**20


COMPRESSED_TEXTS = [
    chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**18))),
    chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**18))),
]


def test_compressed_texts_are_decompressed_only_as_part_of_the_decoding_cost():
    content, pixels = stored(NOISE), 9 * 11
    assert open_png(content).cost == pixels
    assert open_png(stored(Image.new("I;16", (11, 9)))).cost == 3 * pixels
    assert open_png(content[:33] + raw_profile(3, packed=False) + xmp(3, packed=False) + content[33:]).cost == pixels
    for count in (1, 2):
        content = content[:33] + b"".join(COMPRESSED_TEXTS[:count]) + content[33:]
        assert unpacked_bytes(lambda content=content: open_png(content)) < MAX_UNPACKED_TEXT
        opened = open_png(content)
        assert opened.cost == pixels + count * MAX_UNPACKED_TEXT
        assert unpacked_bytes(lambda opened=opened: opened.orientation) < 4 * count * MAX_UNPACKED_TEXT


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_is_found_at_the_beginning_of_long_compressed_texts(orientation):
    content = stored(NOISE)
    lines = "\n".join(["", "exif", "40000", exif(orientation).hex(), *["00" * 36] * 10_000])
    profile = text("Raw profile type exif", lines, packed=True)
    description = f'<a tiff:Orientation="{orientation}"/>' + "x" * 10**6
    packet = text("XML:com.adobe.xmp", description, packed=True, international=True)
    for metadata in (profile, packet):
        assert open_png(content[:33] + metadata + content[33:]).orientation == orientation


def test_a_transparent_colour_of_16_bits_is_white_in_a_large_image():
    width, height = 700, 500  # more than a band
    colours = (np.random.default_rng(0).integers(0, 2, (height, width, 3)) * 257).astype(">u2")
    colours[::7, ::5] = (257, 0, 258)
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    content = png(width, height, 16, 2, rows, before=chunk(b"tRNS", np.array([257, 0, 257], ">u2").tobytes()))
    expected = (colours >> 8).astype(np.uint8)
    expected[(colours == (257, 0, 257)).all(-1)] = 255
    assert np.array_equal(load(content, 3, (width, height)), expected.transpose(2, 0, 1))
