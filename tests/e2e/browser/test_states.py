"""The page of a service that needs a key, is behind a prefix, drains, or has a full queue; and other states."""

import os
import signal
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from app.main import create_app
from app.settings import DEFAULT_MODEL, Settings
from model.checkpoint import write_checkpoint
from tests.support.browser import PANELS, Visit
from tests.support.in_thread_server import on_a_socket
from tests.support.models import COLOUR, DIGITS, build, write
from tests.support.onnx_pairs import write_vector_pair
from tests.support.proxies import proxy
from tests.support.raw_http import server_process

pytestmark = pytest.mark.browser

KEY = "a-key-of-16-char"
PREFIX = "/models/vae"


def test_a_missing_key_is_requested_and_stored_for_the_tab_only(open_page, digits_model):
    with server_process(digits_model, api_key=KEY) as server:
        visit = open_page(f"http://127.0.0.1:{server.port}/")
        dialog = visit.page.get_by_role("dialog", name="API key")
        dialog.get_by_text("The service asks for a key").wait_for()
        dialog.get_by_label("Key", exact=True).fill("another-key-of-16")
        dialog.get_by_role("button", name="Use key").click()
        dialog.get_by_text("The service does not know this key").wait_for()
        dialog.get_by_label("Key", exact=True).fill(KEY)
        dialog.get_by_label("Key", exact=True).press("Enter")
        panel = visit.open("Encode")
        assert '-H "Authorization: Bearer $VAE_API_KEY"' in panel.locator(".command code").inner_text()
        assert KEY not in visit.page.content()
        visit.page.reload()
        visit.open("Explore")
        assert not dialog.is_visible()
        assert visit.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        other = open_page(visit.url)
        other.page.get_by_role("dialog", name="API key").get_by_text("The service asks for a key").wait_for()
        other.page.get_by_role("button", name="Cancel").click()
        other.page.locator(".notice.problem").get_by_text("missing API key: send").wait_for()


@pytest.mark.parametrize("root_path", ["", PREFIX])
def test_the_page_works_below_a_prefix_that_a_proxy_removes(open_page, digits_model, root_path):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, root_path=root_path))
    with on_a_socket(app) as service, proxy(service, PREFIX, removes_prefix=True) as url:
        check_all_panels(open_page(f"{url}/"), url)


@pytest.mark.parametrize("removes_prefix", [True, False])
def test_the_page_needs_no_slash_behind_the_root_path(open_page, digits_model, removes_prefix):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, root_path=PREFIX))
    with on_a_socket(app) as service, proxy(service, PREFIX, removes_prefix=removes_prefix) as url:
        check_all_panels(open_page(url), url)


def test_the_documentation_sends_requests_below_the_root_path(open_page, digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, root_path=PREFIX))
    with on_a_socket(app) as service, proxy(service, PREFIX, removes_prefix=True) as url:
        visit = open_page(url)
        visit.page.get_by_role("link", name="API").click()
        visit.page.set_default_timeout(60_000)  # Swagger UI computes for 8 s on an idle machine
        block = visit.page.locator("[id^=operations-][id$=-livez]")  # which has the smallest responses
        block.get_by_role("button").first.click()
        block.get_by_role("button", name="Try it out").click()
        block.get_by_role("button", name="Execute").click()
        block.locator(".request-url").get_by_text(f"{url}/livez").wait_for()
        block.locator(".live-responses-table .response-col_status", has_text="200").wait_for()


def check_all_panels(visit: Visit, url: str) -> None:
    """Check that all panels work, with requests below an address alone."""
    for name in PANELS:
        assert f"'{url}/" in visit.open(name).locator(".command code").inner_text()


def test_the_page_of_a_draining_service_shows_the_problem_and_the_retry(open_page, digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    with on_a_socket(app) as url:
        visit = open_page(f"{url}/")
        panel = visit.open("Sample")
        app.state.services.state.drain()
        panel.get_by_role("button", name="New seed").click()
        notice = panel.locator(".notice.waiting")
        notice.get_by_text("the service is draining").wait_for()
        assert "Sent again in" in notice.inner_text()
        notice.get_by_role("button", name="Cancel").click()
        assert panel.locator(".notice").count() == 0
        panel.get_by_role("button", name="New seed").click()
        panel.get_by_text("attempt 2 of 5").wait_for()


def test_a_panel_without_its_first_result_has_no_controls_that_need_it(open_page, digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    with on_a_socket(app) as url:
        visit = open_page(f"{url}/")
        visit.open("Sample")
        app.state.services.state.drain()
        for name, button in (("Explore", "Reset to mean"), ("Interpolate", "Save PNG")):
            visit.page.get_by_role("tab", name=name).click()
            panel = visit.page.get_by_role("tabpanel", name=name)
            panel.get_by_text("the service is draining").wait_for()
            assert not panel.get_by_role("button", name=button).is_visible()


def test_an_image_is_drawn_where_there_are_no_samples(open_page, tmp_path):
    with server_process(write_vector_pair(tmp_path / "pair", prior=False)) as server:
        visit = open_page(f"http://127.0.0.1:{server.port}/")
        visit.page.get_by_text("No image yet. Choose, drop, paste or draw one.").wait_for()
        visit.page.locator(".pad").click(position={"x": 120, "y": 120})
        panel = visit.open("Encode")
        assert visit.image("Input", panel).shape == (8, 8, 3)
        assert visit.current().any()


def test_a_request_refused_by_a_full_queue_is_sent_again(open_page):
    limits = {"max_queue_items": 50, "max_items": 50, "max_batch_size": 8, "max_batch_delay_ms": 10_000}
    with server_process(DEFAULT_MODEL, **limits) as server:
        url = f"http://127.0.0.1:{server.port}/"
        visit = open_page(url)
        visit.settle()
        panel = visit.open("Sample")
        full = threading.Thread(target=httpx.get, args=[f"{url}sample?n=7"], kwargs={"timeout": 30})
        full.start()
        while "vae_queue_items 7.0" not in httpx.get(f"{url}metrics").text:  # they leave no room for the page's 48
            time.sleep(0.02)
        panel.get_by_role("button", name="New seed").click()
        panel.locator(".notice.waiting").get_by_text("Queue full").wait_for()
        httpx.get(f"{url}sample?n=1")  # the 8th image, for which the batch waits
        panel.locator(".notice.waiting").wait_for(state="detached")
        full.join()
        assert panel.locator(".notice").count() == 0
        assert panel.locator(".tile").count() == 48


def test_an_invalid_value_shows_the_detail_of_the_problem(visit):
    panel = visit.open("Sample")
    line = panel.locator(".command code").inner_text()
    panel.get_by_label("Seed", exact=True).fill("x")
    panel.get_by_label("Seed", exact=True).press("Enter")
    panel.locator(".notice.problem").get_by_text("seed: expected a valid integer of digits alone").wait_for()
    assert panel.locator(".command code").inner_text() == line


def test_a_page_without_its_scripts_says_what_it_needs(open_page, shipped):
    visit = open_page(shipped, java_script_enabled=False)
    visit.page.get_by_text("This page needs JavaScript").wait_for()


def test_a_service_that_has_gone_is_reported(open_page, digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    with on_a_socket(app) as url:
        visit = open_page(f"{url}/")
        visit.open("Sample")
    visit.page.get_by_role("button", name="New seed").click()
    visit.page.get_by_text(f"{urlsplit(url).netloc} does not respond").wait_for()
    visit.complaints = [said for said in visit.complaints if "ERR_CONNECTION_REFUSED" not in said]


def test_a_page_reports_that_another_model_is_served_and_loads_it(open_page, tmp_path):
    folder = write(tmp_path / "model", DIGITS)
    with server_process(folder) as server:
        visit = open_page(f"http://127.0.0.1:{server.port}/")
        panel = visit.open("Sample")
        first = httpx.get(f"{visit.url}model").json()["model"]
        notice = visit.page.get_by_role("alert")
        assert visit.page.locator("#identity").inner_text() == first
        assert not notice.is_visible()
        write_checkpoint(folder, COLOUR, build(COLOUR).state_dict())
        os.kill(server.pid, signal.SIGHUP)
        while (second := httpx.get(f"{visit.url}model").json()["model"]) == first:
            time.sleep(0.02)
        panel.get_by_role("button", name="New seed").click()
        notice.get_by_text("The service has another model than this page").wait_for()
        notice.get_by_role("button", name="Load the page again").click()
        visit.page.locator("#identity", has_text=second).wait_for()
        visit.open("Encode")
        assert not notice.is_visible()


def test_the_last_response_is_shown_with_its_times(visit):
    visit.open("Sample")
    text = visit.page.locator("#last").inner_text()
    assert text.startswith("GET /sample?n=48&seed=")
    assert "infer" in text
