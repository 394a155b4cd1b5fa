"""The page with a colour model of spatial latents."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from app.codecs.png import write_png
from tests.support.browser import NPY, PANELS, Visit, answered_images, pixels

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(open_page, spatial) -> Visit:
    return open_page(spatial)


def test_every_panel_works(visit):
    for name in PANELS:
        assert visit.open(name).locator(".task .notice").count() == 0


def test_there_is_no_drawing_pad(visit):
    visit.open("Encode")
    assert visit.page.get_by_role("button", name="Draw new").count() == 0
    assert visit.page.locator(".pad").count() == 0


def test_the_posterior_is_shown_as_maps_of_its_channels(visit):
    panel = visit.open("Encode")
    for kind in ("Mean", "Standard deviation", "KL"):
        assert visit.image(f"{kind}, channel 3", panel).shape == (8, 8, 3)


def test_each_channel_has_a_strip_that_moves_all_its_values(visit, spatial):
    panel = visit.open("Explore")
    with httpx.Client(base_url=spatial) as api:
        content = write_png(np.ascontiguousarray(visit.current().transpose(2, 0, 1)))
        mean = np.array(api.post("/encode", content=content).json()["latents"][0]["mean"])
        moved = mean.copy()
        moved[2] += 3 * mean[2].std()
        expected = answered_images(api.post("/decode", json={"latents": [moved.tolist()]}, headers={"Accept": NPY}))
    strips = [panel.get_by_role("group", name=f"Channel {channel}").get_by_role("button") for channel in range(4)]
    assert [strip.count() for strip in strips] == [7] * 4
    strips[2].last.click()
    visit.settle()
    assert float(panel.get_by_label("Channel 2", exact=True).and_(visit.page.get_by_role("slider")).input_value()) == 3
    assert np.abs(visit.image("Decoded image").astype(int) - expected[0]).max() <= 1
    assert np.array_equal(pixels(strips[0].nth(3).locator("canvas")), visit.image("Decoded image"))


def test_a_bright_colour_image_is_not_taken_for_an_inverted_one(visit):
    visit.open("Sample")
    visit.choose(write_png(np.full((3, 32, 32), 255, np.uint8)), "white.png")
    assert not visit.page.get_by_text("try Invert").is_visible()


def test_an_interpolation_in_colour_is_saved_as_gif(visit):
    panel = visit.open("Interpolate")
    tiles = panel.get_by_role("group", name="Interpolation").locator("canvas")
    with visit.page.expect_download() as download:
        panel.get_by_role("button", name="Save GIF").click()
    animation = Image.open(io.BytesIO(download.value.path().read_bytes()))
    assert (animation.n_frames, animation.size) == (16, (224, 224))
    error = np.array(animation.convert("RGB"))[3::7, 3::7].astype(int) - pixels(tiles.first)
    assert np.abs(error).mean() < 6
