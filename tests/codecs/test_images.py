"""Image decoding: formats, fits, limits and damaged files."""

import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from app.codecs.images import (
    MAX_PIXELS,
    MAX_SIDE,
    PIXELS_PER_BYTE,
    Fit,
    configure_pillow_limits,
    decode_images,
    fit_array,
    open_image,
    probe_images,
)
from app.codecs.png import write_png
from app.errors import ContentTooLarge, DeadlineExceeded, UnprocessableContent
from model.data.images import upright
from tests.support.image_files import header_of_png, stored

FITS = ("resize", "pad", "crop", "exact")
LIMIT = 2**24
examples = settings(max_examples=60)

sides = st.integers(1, 9)
pictures = st.tuples(st.sampled_from((1, 3)), sides, sides).flatmap(lambda shape: arrays(np.uint8, shape))


def load(content: bytes, shape: tuple[int, int, int], fit: Fit = "exact") -> np.ndarray:
    return decode_images(probe_images([content], shape, LIMIT), shape, fit)[0]


@examples
@given(pictures, st.sampled_from(FITS))
def test_an_image_of_the_models_size_is_unchanged_by_every_fit(pixels, fit):
    assert np.array_equal(load(write_png(pixels), pixels.shape, fit), pixels)
    assert np.array_equal(fit_array(pixels.transpose(1, 2, 0)[None], pixels.shape, fit)[0], pixels)


NOISE = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
FILES = [stored(Image.fromarray(NOISE), form) for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")]


@settings(max_examples=250)
@given(st.sampled_from(FILES), st.data(), st.sampled_from(FITS))
def test_a_damaged_file_is_decoded_or_refused(content, data, fit):
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)) if damaged else ():
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(UnprocessableContent, ContentTooLarge):
        assert load(bytes(damaged), (3, 9, 11), fit).shape == (3, 9, 11)


@pytest.fixture
def pillow_configured():
    """As the application does before the first image."""
    configure_pillow_limits()


@pytest.mark.usefixtures("pillow_configured")
@pytest.mark.parametrize("side", [4097, 12_000, 20_000])
def test_too_many_pixels_are_refused_before_any_is_decoded(side):
    with pytest.raises(ContentTooLarge, match="pixels allowed"):
        open_image(header_of_png(side, side), 0, LIMIT)
    assert open_image(header_of_png(4096, 4096), 0, LIMIT)[:2] == (4096, 4096)


def test_an_image_of_the_models_size_over_the_limit_is_refused():
    content, shape = write_png(np.zeros((1, 9, 11), np.uint8)), (1, 9, 11)
    with pytest.raises(ContentTooLarge, match="11 x 9 is more than the 98 pixels allowed"):
        probe_images([content], shape, 98)
    assert len(probe_images([content], shape, 99)) == 1


def test_an_image_without_pixel_data_is_refused_by_its_index():
    good, bad = (open_image(content, 0, LIMIT) for content in (FILES[0], header_of_png(11, 9)))
    with pytest.raises(UnprocessableContent, match=r"images\[1\]: the PNG data is truncated or damaged"):
        decode_images([good, bad], (3, 9, 11), "resize")


LYING = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", LYING)
@pytest.mark.parametrize("options", [{"form": "PNG"}, {"form": "WEBP", "lossless": True}])
def test_the_exif_orientation_is_applied(orientation, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = stored(Image.fromarray(np.ascontiguousarray(LYING[orientation](NOISE))), exif=exif, **options)
    assert np.array_equal(load(content, (3, 9, 11)), NOISE.transpose(2, 0, 1))


@pytest.mark.parametrize(("alpha", "seen"), [(0, 255), (51, 215), (255, 55)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_flattened_onto_white(mode, alpha, seen):
    ink = (55,) * (len(mode) - 1)
    content = stored(Image.new(mode, (2, 2), (*ink, alpha)))
    assert load(content, (3, 2, 2)).flatten().tolist() == [seen] * 12
    assert load(content, (1, 2, 2)).flatten().tolist() == [seen] * 4


def test_a_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([9, 9, 9, 200, 30, 40])
    image.putpixel((0, 0), 0)
    for form in ("PNG", "GIF"):
        assert load(stored(image, form, transparency=0), (3, 1, 2))[:, 0].T.tolist() == [[255] * 3, [200, 30, 40]]
        assert load(stored(image, form), (3, 1, 2))[:, 0].T.tolist() == [[9] * 3, [200, 30, 40]]


def test_sixteen_bit_grey_is_scaled_to_eight():
    ramp = np.arange(256, dtype=np.uint16)[None]
    assert np.array_equal(load(stored(Image.fromarray(ramp * 257)), (1, 1, 256))[0], ramp)
    assert load(stored(Image.fromarray(ramp * 257)), (3, 1, 256))[:, 0, 200].tolist() == [200] * 3


def test_one_bit_images_are_black_and_white():
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert load(stored(image), (1, 1, 2)).tolist() == [[[255, 0]]]


def test_cmyk_is_converted_to_rgb():
    red = load(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (3, 8, 8))
    assert np.abs(red.astype(int) - np.array([255, 0, 0])[:, None, None]).max() < 8


def test_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("L", (3, 3), level) for level in (10, 200)]
    content = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load(content, (1, 3, 3)).flatten().tolist() == [10] * 9


def test_colour_and_grey_are_converted_to_the_channels_of_the_model():
    green = load(stored(Image.new("RGB", (2, 2), (0, 255, 0))), (1, 2, 2))
    assert green.flatten().tolist() == [150] * 4
    assert load(stored(Image.new("L", (2, 2), 7)), (3, 2, 2)).flatten().tolist() == [7] * 12


def test_each_fit_resizes_as_its_name_says():
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 255  # a white square between black wings
    content = stored(Image.fromarray(wide))
    resized, padded, cropped = (load(content, (1, 8, 8), fit)[0] for fit in ("resize", "pad", "crop"))
    assert (cropped == 255).all()
    assert (resized[:, 3:5] == 255).all()
    assert (resized[:, [0, -1]] == 0).all()
    assert (padded[[0, 1, -2, -1]] == 0).all()
    assert (padded[2:6, 3:5] == 255).all()
    with pytest.raises(UnprocessableContent, match="expected 8 x 8 pixels, got 16 x 8"):
        load(content, (1, 8, 8), "exact")


@pytest.mark.parametrize("size", [(2000, 1), (1, 2000)])
@pytest.mark.parametrize("fit", FITS[:3])
def test_an_image_of_one_pixel_width_is_fitted(size, fit):
    assert load(stored(Image.new("L", size, 255)), (3, 13, 9), fit).shape == (3, 13, 9)


def test_a_file_of_another_format_is_refused_without_its_content():
    with pytest.raises(UnprocessableContent) as refused:
        open_image(b"hunter2 is no image", 3, LIMIT)
    assert refused.value.detail.startswith("images[3]: expected PNG")
    assert "hunter2" not in refused.value.detail


def test_oversized_exif_is_ignored():
    exif = Image.Exif()
    exif[0x0112], exif[270] = 3, "x" * 100_000
    pixels = NOISE.transpose(2, 0, 1)
    assert np.array_equal(load(stored(Image.fromarray(NOISE), exif=exif), pixels.shape), pixels)


def test_small_files_may_have_few_more_pixels_than_one_image():
    blank = stored(Image.new("RGB", (2048, 2048)), "WEBP", lossless=True)
    assert len(probe_images([blank] * 4, (1, 8, 8), LIMIT)) == 4
    with pytest.raises(ContentTooLarge, match=r"images\[0\] to images\[4\] have 20971520 pixels, more than the"):
        probe_images([blank] * 16, (1, 8, 8), LIMIT)
    large = blank + bytes(2048 * 2048 // PIXELS_PER_BYTE)  # as many bytes as another file of these pixels may have
    assert len(probe_images([large] * 16, (1, 8, 8), LIMIT)) == 16


def test_pixels_of_plain_files_count_towards_the_limit():
    blank = stored(Image.new("L", (2048, 2048)), optimize=True)
    with pytest.raises(ContentTooLarge, match="more than the"):
        probe_images([blank] * 9, (1, 2048, 2048), 2**22)


@pytest.mark.parametrize("limit", [2**10, 2**28, 2**30])
def test_one_image_may_always_have_as_many_pixels_as_the_settings_allow(limit):
    side = int(limit**0.5)
    assert len(probe_images([header_of_png(side, side)], (1, 8, 8), limit)) == 1
    many = [header_of_png(side, side) + bytes(2**20)] * (MAX_PIXELS // limit + 1)
    with pytest.raises(ContentTooLarge):
        probe_images(many * 2, (1, 8, 8), limit)


def test_no_image_is_decoded_once_the_deadline_has_passed():
    checks = []

    def expired() -> bool:
        checks.append(1)
        return len(checks) > 2

    opened = probe_images([FILES[1]] * 9, (1, 8, 8), LIMIT)
    with pytest.raises(DeadlineExceeded, match=r"images\[2\] was not decoded within the request's deadline"):
        decode_images(opened, (1, 8, 8), "resize", expired)
    assert len(checks) == 3


def test_a_damaged_image_of_a_part_of_the_images_is_named_by_its_index_among_all():
    opened = probe_images([FILES[0], header_of_png(11, 9)], (3, 8, 8), LIMIT)
    with pytest.raises(UnprocessableContent, match=r"images\[8\]: the PNG data is truncated or damaged"):
        decode_images(opened, (3, 8, 8), "resize", first=7)


def test_no_image_is_opened_once_the_deadline_has_passed():
    checks = []

    def expired() -> bool:
        checks.append(1)
        return len(checks) > 2

    with pytest.raises(DeadlineExceeded, match=r"images\[2\] was not read within the request's deadline"):
        probe_images([FILES[1]] * 9, (1, 8, 8), LIMIT, expired)
    assert len(checks) == 3


@pytest.mark.usefixtures("pillow_configured")
def test_pillow_warns_about_deprecations_but_not_about_files_of_clients():
    registry: dict[object, object] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        configure_pillow_limits()
        warnings.warn_explicit("Truncated File Read", UserWarning, "p", 1, "PIL.TiffImagePlugin", registry)
        warnings.warn_explicit("gone in 14", DeprecationWarning, "p", 1, "PIL.Image", registry)
    assert [str(warning.message) for warning in caught] == ["gone in 14"]
    assert not any("Truncated File Read" in key for key in registry if isinstance(key, tuple))


@pytest.mark.parametrize("size", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)])
def test_an_image_with_a_side_over_the_limit_is_refused_even_with_few_pixels(size):
    with pytest.raises(
        ContentTooLarge, match=rf"images\[4\]: {size[0]} x {size[1]} has a side of more than {MAX_SIDE} pixels"
    ):
        open_image(header_of_png(*size), 4, LIMIT)
    assert load(stored(Image.new("1", (1, MAX_SIDE))), (1, 8, 8), "resize").shape == (1, 8, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_image_is_converted_as_its_parts_are(mode, channels):
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 4), np.uint8)
    image = Image.fromarray(noise).convert("P" if mode == "P" else mode if mode in ("RGBA", "LA") else "RGB")
    if mode in ("CMYK", "L"):
        image = image.convert(mode)
    elif mode == "I;16":
        image = Image.fromarray(noise.view(np.uint16)[..., 0].copy())
    if mode in ("P", "I;16", "L"):
        image.info["transparency"] = image.getpixel((0, 0))
    assert image.mode == mode
    complete = np.asarray(upright(image, channels, 1))
    for top, left in ((0, 0), (200, 500), (600, 100)):
        part = image.crop((left, top, left + 100, top + 100))
        assert np.array_equal(complete[top : top + 100, left : left + 100], np.asarray(upright(part, channels, 1)))
