"""The page for everyone: axe-core, keyboard alone, narrow and wide windows, light and dark, little motion."""

from pathlib import Path

import numpy as np
import pytest

from app.codecs.png import write_png
from tests.support.browser import PANELS, pixels

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[3] / ".venv" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
RUN_AXE = "() => axe.run(document, { resultTypes: ['violations'] })"
FOCUS = "(element => element.id || element.ariaLabel || element.textContent)(document.activeElement)"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (320, "dark")])
@pytest.mark.parametrize("model", ["shipped", "spatial"])
def test_axe_finds_no_violation(open_page, request, model, width, scheme):
    if not AXE.exists():
        pytest.skip("axe-core is not installed; `make browser` installs it where npm is")
    visit = open_page(request.getfixturevalue(model), width, color_scheme=scheme, bypass_csp=True)
    visit.page.add_script_tag(path=AXE)
    for name in PANELS:
        visit.open(name)
        found = visit.page.evaluate(RUN_AXE)["violations"]
        assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found] == [], name


@pytest.mark.parametrize("width", [320, 360, 1280])
@pytest.mark.parametrize("model", ["shipped", "spatial"])
def test_no_panel_is_wider_than_the_window(open_page, request, model, width):
    visit = open_page(request.getfixturevalue(model), width)
    for name in PANELS:
        visit.open(name)
        assert visit.overflow() <= 0, name


@pytest.mark.parametrize("width", [320, 1280])
def test_long_names_are_no_wider_than_the_window(open_page, shipped, width):
    visit = open_page(shipped, width)
    visit.open("Encode")
    visit.page.locator("details.subject").evaluate("(details) => (details.open = true)")
    visit.choose(write_png(np.zeros((1, 28, 28), np.uint8)), f"{'x' * 200}.png")
    assert visit.overflow() <= 0


def test_the_selected_tab_is_in_view_in_a_window_that_was_made_narrow(visit):
    visit.open("Model")
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.page.wait_for_function(
        "document.querySelector('[aria-selected=true]').getBoundingClientRect().right <= innerWidth"
    )


def test_a_panel_opens_at_its_top(open_page, shipped):
    visit = open_page(shipped, 360)
    visit.open("Model")
    visit.page.evaluate("scrollTo(0, 1e6)")
    visit.open("Explore")
    assert visit.page.evaluate("scrollY") == 0


def test_everything_on_the_way_to_an_explored_sample_works_by_keyboard(visit):
    page = visit.page
    visit.open("Sample")
    page.keyboard.press("Home")
    page.locator("body").press("Tab")

    def tab_to(text: str) -> None:
        for _ in range(80):
            if text in page.evaluate(FOCUS):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"no Tab leads to {text}")

    tab_to("Sample 2:")
    page.keyboard.press("Enter")
    chosen = visit.current()
    assert np.array_equal(chosen, pixels(page.locator(".tile canvas").nth(1)))
    page.locator("#tab-sample").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(FOCUS) == "tab-explore"
    visit.settle()
    before = visit.image("Decoded image")
    tab_to("Unit")
    for _ in range(30):
        page.keyboard.press("PageUp")
    visit.settle()
    assert not np.array_equal(before, visit.image("Decoded image"))
    assert float(page.get_by_role("slider").first.input_value()) == 3.0


def test_the_pad_draws_by_keyboard(visit):
    visit.page.get_by_role("button", name="Draw new").click()
    visit.page.locator(".subject-image").focus()
    for key in ["ArrowUp"] * 6 + ["Shift+ArrowDown"] * 12:
        visit.page.keyboard.press(key)
    drawn = visit.current()[:, :, 0]
    rows, columns = np.nonzero(drawn > 128)
    assert rows.max() - rows.min() >= 11
    assert columns.max() - columns.min() <= 4


def test_the_animation_stands_still_if_reduced_motion_is_preferred(open_page, shipped):
    visit = open_page(shipped, reduced_motion="reduce")
    panel = visit.open("Interpolate")
    film = panel.get_by_role("img", name="Animation of the interpolation")
    before = pixels(film)
    visit.page.wait_for_timeout(1200)
    assert np.array_equal(before, pixels(film))
    panel.get_by_role("button", name="Play").click()
    visit.page.wait_for_timeout(1200)
    assert not np.array_equal(before, pixels(film))


def test_the_image_can_be_changed_on_a_phone(open_page, shipped):
    visit = open_page(shipped, 360, has_touch=True)
    visit.open("Encode")
    assert not visit.page.locator(".subject-image").is_visible()
    visit.page.get_by_text("Change").or_(visit.page.locator("summary").first).first.tap()
    visit.page.get_by_role("button", name="New sample").tap()
    visit.settle()
    assert visit.current().any()
