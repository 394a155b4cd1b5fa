"""The panels of the page, used as a person would, with the shipped model."""

import io
import json
import math
import re

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from app.codecs.png import write_png
from tests.support.browser import NPY, Visit, answered_images, pixels

pytestmark = pytest.mark.browser

MINUS = "\N{MINUS SIGN}"
SEVEN = [(0.3, 0.3), (0.68, 0.3), (0.6, 0.45), (0.52, 0.6), (0.45, 0.78)]


def sent_as_png(image: np.ndarray) -> bytes:
    """The PNG file of a current image [H, W, 3]."""
    return write_png(np.ascontiguousarray(image.transpose(2, 0, 1)))


def encode(api: httpx.Client, image: np.ndarray) -> dict[str, list[float]]:
    return api.post("/encode", content=sent_as_png(image)).raise_for_status().json()["latents"][0]


def decode(api: httpx.Client, *latents: list[float]) -> np.ndarray:
    answer = api.post("/decode", json={"latents": latents}, headers={"Accept": NPY})
    return answered_images(answer)


def reconstruct(api: httpx.Client, image: np.ndarray) -> np.ndarray:
    answer = api.post("/reconstruct", content=sent_as_png(image), headers={"Accept": NPY})
    return answered_images(answer)[0]


def draw(visit: Visit, places: list[tuple[float, float]]) -> None:
    """Draw a line through places of the pad, as fractions of its sides."""
    pad = visit.page.locator(".subject-image")
    box = pad.bounding_box()
    assert box
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    visit.page.mouse.move(*points[0])
    visit.page.mouse.down()
    for point in points[1:]:
        visit.page.mouse.move(*point, steps=6)
    visit.page.mouse.up()
    visit.settle()


def figures(panel) -> dict[str, float]:
    """The figures of a list by their terms."""
    terms = panel.locator("dt").all_inner_texts()
    values = panel.locator("dt + dd").all_inner_texts()
    found = {term: re.search(rf"{MINUS}?[\d.,]+", value) for term, value in zip(terms, values, strict=True)}
    return {term: float(match[0].replace(MINUS, "-").replace(",", "")) for term, match in found.items() if match}


def test_samples_are_those_of_the_api_for_their_seed_and_temperature(visit, api):
    panel = visit.open("Sample")
    panel.get_by_label("Images").fill("6")
    panel.get_by_label("Seed", exact=True).fill("7")
    panel.get_by_label("Seed", exact=True).press("Enter")
    tiles = panel.locator(".tile canvas")
    expect(tiles).to_have_count(6)
    visit.settle()
    expected = answered_images(api.get("/sample?n=6&seed=7", headers={"Accept": NPY}))
    assert np.array_equal([pixels(tiles.nth(i)) for i in range(6)], expected)
    panel.get_by_label("Temperature").fill("0")
    visit.settle()
    shown = [pixels(tiles.nth(i)) for i in range(6)]
    assert all(np.array_equal(image, shown[0]) for image in shown)


def test_an_empty_seed_becomes_a_new_one(visit):
    panel = visit.open("Sample")
    seed = panel.get_by_label("Seed", exact=True)
    seed.fill(" ")
    seed.press("Enter")
    expect(seed).to_have_value(re.compile(r"\d+"))
    visit.settle()
    assert f"seed={seed.input_value()}&" in panel.locator(".command code").inner_text()


def test_a_new_seed_gives_other_samples(visit):
    panel = visit.open("Sample")
    before = pixels(panel.locator(".tile canvas").first)
    panel.get_by_role("button", name="New seed").click()
    visit.settle()
    assert not np.array_equal(before, pixels(panel.locator(".tile canvas").first))


def test_a_sample_is_taken_along_to_the_other_panels(visit, api):
    panel = visit.open("Sample")
    tile = panel.locator(".tile").nth(3)
    tile.click()
    chosen = pixels(tile.locator("canvas"))
    assert np.array_equal(visit.current(), chosen)
    panel.get_by_role("link", name="explore").click()
    visit.page.get_by_role("tabpanel", name="Explore").wait_for()
    visit.settle()
    decoded = visit.image("Decoded image")
    assert np.array_equal(decoded, reconstruct(api, chosen))


def test_a_drawn_digit_is_reconstructed(visit, api):
    visit.page.get_by_role("button", name="Draw new").click()
    assert not visit.current().any()
    draw(visit, SEVEN)
    panel = visit.open("Encode")
    drawn = visit.current()
    assert 30 < (drawn[:, :, 0] > 128).sum() < 120
    assert np.array_equal(visit.image("Input", panel), drawn)
    reconstruction = visit.image("Reconstruction", panel)
    assert np.array_equal(reconstruction, reconstruct(api, drawn))
    error = (drawn.astype(float) - reconstruction)[:, :, 0]
    shown = figures(panel)
    assert shown["RMS error"] == pytest.approx(math.sqrt((error**2).mean()), abs=0.06)
    heat = visit.image("Error", panel).astype(int).sum(2)
    assert np.unravel_index(heat.argmax(), heat.shape) == np.unravel_index(abs(error).argmax(), error.shape)


def test_the_reconstruction_follows_a_stroke(visit, api):
    panel = visit.open("Encode")
    visit.page.get_by_role("button", name="Draw new").click()
    draw(visit, SEVEN[:2])
    draw(visit, SEVEN[1:])
    assert np.array_equal(visit.image("Reconstruction", panel), reconstruct(api, visit.current()))


def test_the_table_has_the_posterior_of_the_api(visit, api):
    panel = visit.open("Encode")
    panel.get_by_text("Numbers as a table").click()
    cells = [row.split("\t") for row in panel.locator("tbody tr").all_inner_texts()]
    shown = np.array([[float(cell.replace(MINUS, "-")) for cell in row] for row in cells])
    latent = encode(api, visit.current())
    mean, logvar = np.array(latent["mean"]), np.array(latent["logvar"])
    kl = 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)
    assert np.allclose(shown[:, 1:], np.stack([mean, np.exp(logvar / 2), kl], 1), atol=6e-5)
    assert figures(panel)["KL to the prior"] == pytest.approx(kl.sum(), abs=0.01)


def test_units_are_sorted_by_their_kl_and_back_again(visit):
    panel = visit.open("Encode")
    switch = panel.get_by_role("switch", name="Sort units by KL")
    labels = panel.locator("svg.chart .tick")
    before = labels.all_text_contents()
    switch.check()
    assert labels.all_text_contents() != before
    switch.uncheck()
    assert labels.all_text_contents() == before
    assert switch.is_visible()


def test_large_latents_have_whole_axis_labels_and_bounded_sliders(open_page, distant):
    visit, image = open_page(distant), np.full((8, 8, 1), 255, np.uint8)
    panel = visit.open("Encode")
    visit.choose(sent_as_png(image))
    with httpx.Client(base_url=distant, timeout=30) as api:
        mean = np.array(encode(api, image)["mean"])
    assert abs(mean).max() > 10_000
    labels = panel.locator("svg.chart .tick")
    assert f"{MINUS}20K" in labels.all_text_contents()
    assert min(labels.evaluate_all("(ticks) => ticks.map((tick) => tick.getBBox().x)")) >= 0
    explore = visit.open("Explore")
    explore.get_by_text("Sliders end at ±10").wait_for()
    slider = explore.get_by_role("slider").first
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("-10", "10")
    shown = [
        float(text.replace(MINUS, "-").replace(",", "")) for text in explore.locator(".slider .value").all_inner_texts()
    ]
    units = [
        int(name) for name in explore.get_by_role("slider").evaluate_all("(all) => all.map((one) => one.dataset.unit)")
    ]
    assert np.allclose(shown, mean[units], atol=0.51)


def test_a_click_on_a_unit_explores_it(visit):
    panel = visit.open("Encode")
    chart = panel.locator("svg.chart")
    box = chart.bounding_box()
    assert box
    chart.click(position={"x": 52 + (box["width"] - 56) * 5.5 / 32, "y": 60})
    assert visit.page.url.endswith("#explore")
    assert "z5" in visit.page.locator(".slider.chosen").inner_text()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_an_image_can_be_dropped_and_pasted(visit, digits, way):
    visit.open("Encode")
    content = list(write_png(digits[0]))
    visit.page.evaluate(
        """([content, way]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], "zero.png", { type: "image/png" }));
            const options = { dataTransfer: data, clipboardData: data, bubbles: true, cancelable: true };
            const event = way === "drop" ? DragEvent : ClipboardEvent;
            document.body.dispatchEvent(new event(way, options));
        }""",
        [content, way],
    )
    visit.page.locator(".hint", has_text="zero.png: 28").wait_for()
    assert visit.current().shape == (28, 28, 3)
    assert visit.current().max() > 200


def test_a_dropped_file_that_is_no_image_is_reported(visit):
    visit.open("Encode")
    visit.page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["no image"], "notes.txt", { type: "text/plain" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    visit.page.get_by_text("notes.txt: this browser cannot read it").wait_for()


def test_the_image_chosen_last_is_the_current_one(visit, digits):
    visit.open("Encode")
    large = io.BytesIO()
    Image.new("L", (6000, 6000), 90).save(large, "PNG")
    for name, content in (("large.png", large.getvalue()), ("small.png", write_png(digits[0]))):
        file = {"name": name, "mimeType": "image/png", "buffer": content}
        visit.page.locator("input[type=file]").set_input_files(file)
    visit.page.locator(".hint", has_text="small.png: 28").wait_for()
    visit.page.wait_for_timeout(700)
    assert visit.page.locator(".hint", has_text="small.png: 28").is_visible()


def test_the_same_file_can_be_chosen_again(visit, digits):
    visit.open("Encode")
    visit.choose(write_png(digits[0]), "zero.png")
    expect(visit.page.locator("input[type=file]")).to_have_value("")


def test_an_image_of_the_models_size_is_sent_unchanged(visit, api):
    image = answered_images(api.get("/sample?n=1&seed=5", headers={"Accept": NPY}))[0]
    visit.open("Encode")
    visit.choose(sent_as_png(image))
    assert np.array_equal(visit.current(), image)


def test_a_bright_image_is_noticed_and_can_be_inverted(visit, api):
    image = answered_images(api.get("/sample?n=1&seed=5", headers={"Accept": NPY}))[0]
    visit.open("Score")
    visit.choose(sent_as_png(255 - image))
    visit.page.get_by_text("try Invert").wait_for()
    visit.page.get_by_role("switch", name="Invert").click()
    visit.settle()
    assert np.array_equal(visit.current(), image)
    assert not visit.page.get_by_text("try Invert").is_visible()
    visit.choose(sent_as_png(image))
    visit.page.get_by_text("turn Invert off").wait_for()


def test_a_file_that_is_no_image_is_reported_by_its_name(visit):
    visit.open("Encode")
    file = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no image"}
    visit.page.locator("input[type=file]").set_input_files(file)
    visit.page.get_by_text("notes.png: this browser cannot read it").wait_for()


def test_a_slider_moves_the_image_with_at_most_one_request_under_way(visit, api):
    panel = visit.open("Explore")
    mean = encode(api, visit.current())["mean"]
    under_way, most = set(), []
    visit.page.on("request", lambda request: (under_way.add(request), most.append(len(under_way))))
    visit.page.on("requestfinished", lambda request: under_way.discard(request))  # noqa: PLW0108  # takes no built-in
    slider = panel.get_by_role("slider").first
    unit = int(slider.get_attribute("data-unit"))
    box = slider.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 12)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 12, steps=25)
    visit.page.mouse.up()
    visit.settle()
    mean[unit] = float(slider.input_value())
    assert mean[unit] > 1.5
    assert max(most) == 1
    assert np.abs(visit.image("Decoded image").astype(int) - decode(api, mean)[0]).max() <= 1


def test_units_are_sorted_by_their_use_and_all_can_be_shown(visit):
    panel = visit.open("Explore")
    assert panel.get_by_role("slider").count() == 10
    panel.get_by_role("button", name="Show all 32").click()
    assert panel.get_by_role("slider").count() == 32
    uses = panel.locator(".use").all_inner_texts()
    nats = [0.0 if "unused" in use else float(use.split()[0]) for use in uses]
    assert nats == sorted(nats, reverse=True)
    assert nats[0] > 1
    assert "unused" in uses[-1]


def test_the_buttons_of_explore_set_the_latent(visit, api):
    panel = visit.open("Explore")
    mean = encode(api, visit.current())["mean"]
    panel.get_by_role("button", name="Set to zero").click()
    visit.settle()
    assert np.array_equal(visit.image("Decoded image"), decode(api, [0.0] * 32)[0])
    panel.get_by_role("button", name="Draw from posterior").click()
    visit.settle()
    drawn = visit.image("Decoded image")
    panel.get_by_role("button", name="Reset to mean").click()
    visit.settle()
    assert np.array_equal(visit.image("Decoded image"), decode(api, mean)[0])
    assert not np.array_equal(visit.image("Decoded image"), drawn)


def test_the_traversal_shows_the_selected_unit_from_end_to_end(visit, api):
    panel = visit.open("Explore")
    mean = encode(api, visit.current())["mean"]
    unit = int(panel.get_by_role("slider").first.get_attribute("data-unit"))
    tiles = panel.get_by_role("group", name="Traversal").get_by_role("button")
    assert tiles.count() == 11
    for place, value in ((0, -3.0), (10, 3.0)):
        latent = [*mean[:unit], value, *mean[unit + 1 :]]
        assert np.abs(pixels(tiles.nth(place).locator("canvas")).astype(int) - decode(api, latent)[0]).max() <= 1
    tiles.last.click()
    assert float(panel.get_by_role("slider").first.input_value()) == 3.0


def test_the_curl_line_of_explore_decodes_to_the_shown_image(visit, api):
    panel = visit.open("Explore")
    line = panel.locator(".command code").inner_text()
    body = re.fullmatch(r"curl -s -d '(.*)' 'http://127.0.0.1:\d+/decode' -o image.png", line)
    assert body
    latents = json.loads(body[1])["latents"]
    assert np.abs(visit.image("Decoded image").astype(int) - decode(api, *latents)[0]).max() <= 3


def test_interpolation_goes_from_one_image_to_the_other_and_moves(visit, api):
    panel = visit.open("Interpolate")
    ends = [visit.image(name, panel) for name in ("From this image", "To this image")]
    tiles = panel.get_by_role("group", name="Interpolation").get_by_role("button")
    for way in ("linear", "spherical"):
        panel.get_by_label("Way").select_option(way)
        panel.get_by_label("Steps").fill("5")
        visit.settle()
        assert tiles.count() == 5
        assert np.array_equal(pixels(tiles.first.locator("canvas")), reconstruct(api, ends[0]))
        assert np.array_equal(pixels(tiles.last.locator("canvas")), reconstruct(api, ends[1]))
        line = panel.locator(".command code").inner_text()
        body, path = re.fullmatch(r"curl -s -d '(.*)' 'http://[^/]*(/.*)' -o interpolation.png", line).groups()
        answer = answered_images(api.post(path, content=body, headers={"Accept": NPY}))
        shown = np.array([pixels(tiles.nth(i).locator("canvas")) for i in range(5)])
        assert np.abs(shown.astype(int) - answer).max() <= 3
    film = panel.get_by_role("img", name="Animation of the interpolation")
    first = pixels(film)
    shown = (visit.page.wait_for_timeout(100) or pixels(film) for _ in range(100))
    assert any(not np.array_equal(first, frame) for frame in shown)
    panel.get_by_role("button", name="Pause").click()
    stopped = pixels(film)
    visit.page.wait_for_timeout(900)
    assert np.array_equal(stopped, pixels(film))


def test_an_interpolation_is_saved_as_png_gif_and_latents(visit, api):
    panel = visit.open("Interpolate")
    panel.get_by_label("Steps").fill("4")
    visit.settle()
    tiles = panel.get_by_role("group", name="Interpolation").locator("canvas")
    frames = [pixels(tiles.nth(i)) for i in range(4)]

    def saved(name: str) -> bytes:
        with visit.page.expect_download() as download:
            panel.get_by_role("button", name=name).click()
        return download.value.path().read_bytes()

    strip = np.array(Image.open(io.BytesIO(saved("Save PNG"))).convert("RGB"))
    assert np.array_equal(strip, np.concatenate(frames, 1))
    animation = Image.open(io.BytesIO(saved("Save GIF")))
    assert (animation.n_frames, animation.size, animation.info["loop"]) == (6, (224, 224), 0)
    for index, frame in enumerate([*frames, *frames[2:0:-1]]):
        animation.seek(index)
        assert np.array_equal(np.array(animation.convert("RGB"))[4::8, 4::8], frame)
    latents = json.loads(saved("Save latents"))["latents"]
    assert np.abs(decode(api, *latents).astype(int) - np.array(frames)).max() <= 1


def test_scores_are_those_of_the_api_and_their_place_is_plotted(visit, api):
    panel = visit.open("Score")
    score = api.post("/score?samples=64&seed=0", content=sent_as_png(visit.current())).json()["scores"][0]
    shown = figures(panel)
    assert shown["ELBO"] == pytest.approx(score["elbo"], abs=0.01)
    assert shown["Percentile"] == pytest.approx(score["percentile"], abs=0.06)
    assert shown["log p(x), importance-weighted"] == pytest.approx(score["log_likelihood"], abs=0.01)
    percentiles = api.get("/model/history").json()["metrics"]["reference"]["elbo"]
    line = panel.locator("svg.chart .place")
    ends = panel.locator("svg.chart .axis")
    left, right = float(ends.get_attribute("x1")), float(ends.get_attribute("x2"))
    place = (float(line.get_attribute("x1")) - left) / (right - left)
    assert place == pytest.approx((score["elbo"] - percentiles[0]) / (percentiles[-1] - percentiles[0]), abs=0.01)
    bars = panel.locator("svg.chart .bar")
    heights = np.array([float(bars.nth(i).get_attribute("height")) for i in range(bars.count())])
    middles = percentiles[0] + (np.arange(48) + 0.5) / 48 * (percentiles[-1] - percentiles[0])
    below = heights[middles <= percentiles[50]].sum() / heights.sum()
    assert below == pytest.approx(0.5, abs=0.06)


def test_the_model_panel_has_digest_figures_and_samples(visit, api):
    panel = visit.open("Model")
    text = panel.inner_text()
    assert api.get("/model").json()["digest"] in text
    best = api.get("/model/history").json()["metrics"]["evaluations"][0]
    bound = f"{MINUS}{-best['log_likelihood']:.2f} ± {best['standard_error']:.2f}"
    units = f"{best['active_units']} of {best['units']}"
    for part in ("1.55 million weights", bound, units, "MNIST", "letters", "vae train --data"):
        assert part in text
    assert panel.locator(".curve").count() == 2
    assert {"vae", "--precision"} <= set(panel.locator(".wrapped span").all_inner_texts())
    first = answered_images(api.get("/sample?n=1&seed=0", headers={"Accept": NPY}))[0]
    assert np.array_equal(pixels(panel.locator(".card-images canvas").first), first)


def test_every_panel_shows_a_curl_line(visit):
    for name in ("Sample", "Encode", "Explore", "Interpolate", "Score", "Model"):
        expect(visit.open(name).locator(".command code")).to_have_text(re.compile("^curl -s "))
