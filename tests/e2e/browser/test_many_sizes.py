"""The page with a model of many sizes that has neither a prior nor a density."""

import re

import httpx
import numpy as np
import pytest

from app.codecs.png import write_png
from tests.support.browser import Visit

pytestmark = pytest.mark.browser

PICTURE = np.random.default_rng(0).integers(0, 256, (3, 22, 35), np.uint8)


@pytest.fixture
def visit(open_page, many_sizes) -> Visit:
    return open_page(many_sizes)


def test_an_image_is_requested_from_the_user_if_there_are_no_samples(visit):
    visit.page.get_by_text("No image yet. Choose, drop or paste one.").first.wait_for()
    assert visit.page.get_by_role("tab").all_inner_texts() == ["Encode", "Explore", "Interpolate", "Score", "Model"]
    assert visit.page.get_by_role("button", name="New sample").count() == 0


def test_an_image_is_resized_to_the_next_lower_multiples(visit):
    visit.choose(write_png(PICTURE), "picture.png")
    panel = visit.open("Encode")
    assert visit.image("Input", panel).shape == (20, 32, 3)
    assert visit.image("Reconstruction", panel).shape == (20, 32, 3)
    visit.page.locator(".hint", has_text=re.compile("32 . 20 colour from 35 . 22")).wait_for()


def test_each_panel_works_once_there_is_an_image(visit):
    visit.choose(write_png(PICTURE), "picture.png")
    for name in ("Encode", "Explore", "Score", "Model"):
        assert visit.open(name).locator(".notice.problem").count() == 0


def test_the_score_is_the_error_of_the_reconstruction(visit, many_sizes):
    assert "elbo" in httpx.get(f"{many_sizes}model").json()["capabilities"]
    visit.choose(write_png(PICTURE), "picture.png")
    panel = visit.open("Score")
    assert "There is no ELBO of this model" in panel.inner_text()
    assert "Squared error" in panel.inner_text()


def test_an_interpolation_requests_two_images(visit):
    visit.page.get_by_role("tab", name="Interpolate").click()
    visit.page.get_by_text("Two images are needed.").wait_for()
    assert not visit.page.get_by_role("button", name="Save GIF").is_visible()


def test_large_images_are_explored_with_the_strip_of_one_channel(visit):
    visit.choose(write_png(PICTURE), "small.png")
    panel = visit.open("Explore")
    assert panel.locator(".strip:has(.tile)").count() == 2
    visit.choose(write_png(np.zeros((3, 100, 120), np.uint8)), "large.png")
    assert panel.locator(".strip:has(.tile)").count() == 1


def test_an_interpolation_needs_images_of_one_size(visit):
    visit.choose(write_png(PICTURE), "first.png")
    panel = visit.page.get_by_role("tabpanel", name="Interpolate")
    visit.page.get_by_role("tab", name="Interpolate").click()
    visit.settle()
    visit.choose(write_png(PICTURE[:, :12, :16].copy()), "second.png")
    panel.get_by_role("button", name="Use current image").last.click()
    panel.get_by_text("the two images have different sizes").wait_for()
    visit.choose(write_png(PICTURE[:, ::-1].copy()), "third.png")
    panel.get_by_role("button", name="Use current image").last.click()
    visit.settle()
    assert panel.get_by_role("group", name="Interpolation").get_by_role("button").count() == 9
