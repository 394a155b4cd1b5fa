"""Stripped files have the same pixels, and files that would be slow to decode are refused."""

import contextlib
import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.codecs.images import decode_images, open_image, probe_images
from app.codecs.metadata import MAX_PIECES, TooManyPieces, Unreadable
from app.codecs.stripping import MAX_JPEG_SCANS, MAX_JPEG_TABLE_BYTES, strip
from app.errors import ContentTooLarge, UnprocessableContent
from model.data.images import upright
from tests.support.image_files import stored

LIMIT = 2**20
PIXELS = np.random.default_rng(0).integers(0, 256, (29, 31, 4), np.uint8)
NOISE = Image.fromarray(PIXELS[..., :3].copy())


def load(content: bytes, channels: int = 3) -> np.ndarray:
    shape = (channels, 29, 31)
    return decode_images(probe_images([content], shape, LIMIT), shape, "resize")[0]


def by_pillow(content: bytes, channels: int = 3) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        flat = upright(image, channels)
    pixels = np.asarray(flat if flat.size == (31, 29) else flat.resize((31, 29), Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E], tags[0x8769] = orientation, "a title", {0x9003: "2020:01:01 00:00:00"}
    return tags


IMAGES = {
    "1": NOISE.convert("1"),
    "L": NOISE.convert("L"),
    "P": NOISE.quantize(20),
    "RGB": NOISE,
    "RGBA": Image.fromarray(PIXELS),
    "CMYK": Image.fromarray(PIXELS, "CMYK"),
    "YCbCr": NOISE.convert("YCbCr"),
}
MODES = {"JPEG": "L RGB CMYK YCbCr", "WEBP": "L P RGB RGBA", "GIF": "1 L P RGB RGBA", "BMP": "1 L P RGB RGBA"}
OPTIONS = {
    "JPEG": [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"quality": 30},
        {"restart_marker_rows": 1},
        {"optimize": True},
        {"dpi": (300, 300)},
        {"comment": b"c" * 60_000},
        {"icc_profile": bytes(200_000)},
        {"exif": exif(6)},
        {"xmp": b'<a tiff:Orientation="8"/>'},
    ],
    "WEBP": [
        {},
        {"lossless": True},
        {"icc_profile": bytes(999)},
        {"exif": exif(6)},
        {"xmp": b'<a tiff:Orientation="8"/>'},
        {"exif": exif(6), "icc_profile": bytes(999), "xmp": b"<a/>", "lossless": True},
    ],
    "GIF": [{}, {"interlace": 0}, {"interlace": 1}, {"comment": b"c" * 3000}, {"transparency": 3}, {"loop": 0}],
    "BMP": [{}],
}


@pytest.mark.parametrize(("form", "options"), [(form, options) for form in OPTIONS for options in OPTIONS[form]])
def test_every_mode_and_option_is_read_as_pillow_reads_it(form, options):
    for mode in MODES[form].split():
        content = stored(IMAGES[mode], form, **options)
        for channels in (1, 3):
            assert np.array_equal(load(content, channels), by_pillow(content, channels)), mode


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_every_orientation_in_exif_and_xmp_is_applied(form, orientation):
    big_endian = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x112, 3, 1, orientation, 0) + bytes(4)
    for options in (
        {"exif": exif(orientation)},
        {"exif": big_endian},
        {"xmp": b'<a tiff:Orientation="%d"/>' % orientation},
        {"xmp": b"<tiff:Orientation>%d</tiff:Orientation>" % orientation, "exif": exif(1)},
    ):
        content = stored(NOISE, form, **options)
        assert np.array_equal(load(content), by_pillow(content))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "MPO"])
@pytest.mark.parametrize("options", [{}, {"loop": 0, "duration": 40, "disposal": 2}, {"background": (9, 9, 9, 255)}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_only_the_first_of_several_frames_is_kept(form, options, mode):
    frames = [Image.fromarray(np.roll(PIXELS, 5 * shift, 0)).convert(mode) for shift in range(3)]
    if form == "MPO":
        frames, options = [frame.convert("RGB") for frame in frames], {}
    if form == "GIF":
        options = {name: value for name, value in options.items() if name != "background"}
    content = stored(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(load(content), by_pillow(content))
    if form == "WEBP":
        assert strip(content).content.count(b"ANMF") == 1


JPEG, GIF = stored(NOISE, "JPEG"), stored(NOISE, "GIF", transparency=3)
GIF_START = 13 + (3 << (GIF[10] & 7) + 1)


@pytest.mark.parametrize(
    "junk", [b"\xff" * 2**20, b"junk" * 2**18, b"\xff\x00" * 2**19, b"\xff\x01" * 99, bytes(2**20)]
)
def test_stray_bytes_between_segments_of_a_jpeg_are_skipped_quickly(junk):
    assert np.array_equal(load(JPEG[:20] + junk + JPEG[20:]), load(JPEG))


def test_a_jpeg_of_fill_bytes_is_refused():
    with pytest.raises(UnprocessableContent, match=r"images\[0\]: the JPEG data is truncated or damaged"):
        open_image(b"\xff\xd8" + b"\xff" * 2**22, 0, LIMIT)


def test_profiles_comments_exif_and_thumbnails_of_a_jpeg_are_removed():
    segments = (
        b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527),
        b"\xff\xe2\xff\xffICC_PROFILE\0\1\2" + bytes(65_519),
        b"\xff\xe2\x00\x20MPF\0" + bytes(26),
        b"\xff\xed\xff\xffPhotoshop 3.0\0" + b"8BIM" * 100 + bytes(65_119),
        b"\xff\xfe\xff\xff" + bytes(65_533),
    )
    content = JPEG[:2] + b"".join(segment * 50 for segment in segments) + JPEG[2:]
    assert len(strip(content).content) <= len(JPEG)
    assert np.array_equal(load(content), load(JPEG))


def with_scans(count: int) -> bytes:
    """Return a progressive JPEG with so many copies of its last scan and of its table."""
    complete = stored(NOISE, "JPEG", progressive=True)
    scan = complete.rindex(b"\xff\xda")
    return complete[:-2] + complete[complete.rindex(b"\xff\xc4", 0, scan) : -2] * count + complete[-2:]


@pytest.mark.parametrize("filler", [b"", b"\xff\xff", b"garbage", b"\xff\x00", b"\xff\x01", b"\xff\xd8"])
def test_a_jpeg_with_too_many_scans_is_refused(filler):
    bomb = with_scans(MAX_JPEG_SCANS)
    scans = bomb.index(b"\xff\xda")
    for start in (20, bomb.rindex(b"\xff\xc4", 0, scans)):
        with pytest.raises(ContentTooLarge, match=rf"images\[3\]: more than {MAX_JPEG_SCANS} scans"):
            open_image(bomb[:start] + filler + bomb[start:], 3, LIMIT)
    assert np.array_equal(load(with_scans(9)), by_pillow(with_scans(9)))


def test_bytes_after_the_image_do_not_count():
    assert np.array_equal(load(JPEG + b"\xff\xda\x00\x02" * 1000), load(JPEG))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (JPEG[:2] + b"\xff\xe1\x00\x02" * MAX_PIECES + JPEG[2:], f"more than {MAX_PIECES} segments"),
        (JPEG[:-2] + b"\xff\xc4\x00\x02" * MAX_PIECES + JPEG[-2:], f"more than {MAX_PIECES} segments"),
        (JPEG[:2] + b"\xff\xdb\x00\x43\0" + bytes([1] * 64) + JPEG[2:], ""),
        (
            JPEG[:2] + (b"\xff\xdb\x00\x43\0" + bytes([1] * 64)) * 300 + JPEG[2:],
            f"more than {MAX_JPEG_TABLE_BYTES} bytes of tables",
        ),
        (GIF[:GIF_START] + b"\x21\xfe\x01x\0" * MAX_PIECES + GIF[GIF_START:], f"more than {MAX_PIECES} blocks"),
        (GIF[:GIF_START] + b"\x21\xfe\0" * MAX_PIECES + GIF[GIF_START:], f"more than {MAX_PIECES} blocks"),
        (
            GIF[:GIF_START] + b"\x21\xff" + b"\x01x" * MAX_PIECES + b"\0" + GIF[GIF_START:],
            f"more than {MAX_PIECES} blocks",
        ),
        (GIF[:GIF_START] + b"\x21\xfe\x01x\0" * 1000 + GIF[GIF_START:], ""),
    ],
)
def test_a_file_with_too_many_pieces_is_refused(content, what):
    if not what:
        assert load(content).shape == (3, 29, 31)
        return
    with pytest.raises(ContentTooLarge, match=rf"images\[3\]: {what}"):
        open_image(content, 3, LIMIT)


@pytest.mark.parametrize("marker", [0xC9, 0xCA, 0xCC])
def test_a_jpeg_with_arithmetic_coding_is_refused(marker):
    content = JPEG.replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    with pytest.raises(
        UnprocessableContent, match="expected a JPEG with Huffman coding, got one with arithmetic coding"
    ):
        open_image(content, 0, LIMIT)


@pytest.mark.parametrize("junk", [b"\0" * 2**20, b"junk" * 2**18, b"\x21\xfe\x03abc\0", b"\x21\xf9\x04\0\0\0\0\0"])
def test_other_blocks_before_the_image_of_a_gif_are_removed(junk):
    content = GIF[:GIF_START] + junk + GIF[GIF_START:]
    assert len(strip(content).content) <= len(GIF)
    assert np.array_equal(load(content), load(GIF))


def test_a_gif_with_a_frame_smaller_than_its_canvas_is_read_as_pillow_reads_it():
    for size in ((5, 6), (50, 60)):
        content = GIF[:6] + struct.pack("<HH", *size) + GIF[10:]
        assert np.array_equal(load(content), by_pillow(content))


def riff(body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def test_unknown_chunks_and_metadata_of_a_webp_are_removed():
    plain = stored(NOISE, "WEBP", lossless=True)
    content = stored(NOISE, "WEBP", lossless=True, icc_profile=bytes(2**20), xmp=bytes(2**20), exif=exif(1))
    more = riff(content[12:] + (b"ABCD" + struct.pack("<I", 2**20) + bytes(2**20)) * 9)
    for file in (content, more):
        assert len(strip(file).content) <= len(plain) + 18
        assert np.array_equal(load(file), load(plain))
    with pytest.raises(ContentTooLarge, match=rf"images\[0\]: more than {MAX_PIECES} chunks"):
        open_image(riff(content[12:] + b"ABCD\0\0\0\0" * MAX_PIECES), 0, LIMIT)


@pytest.mark.parametrize("colours", [257, 65_536, 2**32 - 1])
def test_a_bmp_with_more_colours_than_a_pixel_can_have_is_refused(colours):
    content = stored(IMAGES["P"], "BMP")
    with pytest.raises(UnprocessableContent, match=f"expected a BMP of at most 256 colours, got {colours}"):
        open_image(content[:46] + struct.pack("<I", colours) + content[50:], 0, LIMIT)


@pytest.mark.parametrize("compression", [1, 2])
def test_a_bmp_with_run_length_compression_is_refused(compression):
    content = stored(IMAGES["P"], "BMP")
    with pytest.raises(UnprocessableContent, match="expected a BMP without run-length compression"):
        open_image(content[:30] + struct.pack("<I", compression) + content[34:], 0, LIMIT)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_file_is_refused(form):
    content = stored(NOISE, form)
    for kept in (len(content) // 3, len(content) // 2, len(content) - 100):
        with pytest.raises(
            UnprocessableContent, match=r"images\[0\]: (the \w+ data is truncated or damaged|expected PNG)"
        ):
            load(content[:kept])


def test_a_gif_with_complete_data_but_too_few_rows_is_refused():
    codes = [256, *[7] * 90, 257]  # clear, 90 pixels of 899, end
    bits = np.concatenate([[code >> bit & 1 for bit in range(9)] for code in codes])
    data = np.packbits(bits, bitorder="little").tobytes()
    image = GIF[:GIF_START] + b"," + struct.pack("<HHHHBB", 0, 0, 31, 29, 0, 8) + bytes([len(data)]) + data + b"\0;"
    with pytest.raises(UnprocessableContent, match=r"images\[0\]: the GIF data is truncated or damaged"):
        load(image)


DIRECTORY = struct.pack("<H", 5000) + b"".join(struct.pack("<HHII", tag, 7, 2**30, 8) for tag in range(5000))
ODD = (b"II*\0\x08\0\0\0" + DIRECTORY)[:60_000]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_no_file_makes_pillow_warn(form):
    content = stored(NOISE, form, exif=b"Exif\0\0" + ODD)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(content)
    assert caught == []


SEEDS = [JPEG, GIF, stored(NOISE, "WEBP", exif=exif(6)), stored(NOISE, "BMP"), with_scans(1)]


@settings(max_examples=150)
@given(st.sampled_from(SEEDS), st.data())
def test_a_damaged_file_is_stripped_or_refused(content, data):
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=6)) if damaged else ():
        damaged[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unreadable, TooManyPieces):
        assert len(strip(bytes(damaged)).content) <= len(damaged) + 16
