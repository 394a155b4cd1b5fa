"""The web page: its files, their headers, their size, and that they ask no other host for anything."""

import re
from pathlib import Path

import httpx
import pytest

import app.web
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running

pytestmark = pytest.mark.anyio

STATIC = Path(app.web.__file__).parent / "static"
MAX_BYTES = 150_000


def links(page: httpx.Response) -> list[str]:
    """The files that a page loads."""
    return sorted(set(re.findall(r'(?:src|href)="(web/[^"]+)"', page.text)))


async def test_the_page_and_its_files_fit_into_150_kb_over_the_wire(client):
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = [page, *[await client.get(link) for link in links(page)]]
    assert {file.status_code for file in files} == {200}
    assert {file.headers["content-encoding"] for file in files} == {"gzip"}
    assert sum(int(file.headers["content-length"]) for file in files) < MAX_BYTES


async def test_the_page_loads_every_module(client):
    modules = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.js")}
    assert len(modules) > 10
    assert {link.split("/", 2)[2] for link in links(await client.get("/"))} >= modules


async def test_files_are_sent_without_compression_to_a_client_that_reads_none(client):
    for path in ("/", *links(await client.get("/"))):
        plain = await client.get(path, headers={"accept-encoding": "identity"})
        packed = await client.get(path, headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
        assert packed.headers["content-encoding"] == "gzip"
        assert plain.content == packed.content


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip;q=0", None),
        ("gzip; q=0.000, br", None),
        ("*, gzip;q=0", None),
        ("identity;q=1, *;q=0", None),
        ("gzipped", None),
        ("br, GZIP;q=0.001", "gzip"),
        ("*", "gzip"),
    ],
)
async def test_the_encoding_follows_the_weights_of_the_header(client, accepted, encoding):
    answer = await client.get("/", headers={"accept-encoding": accepted})
    assert answer.headers.get("content-encoding") == encoding
    assert "<!doctype html>" in answer.text


async def test_the_page_is_revalidated_and_its_files_are_immutable(client):
    page = await client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    etag = page.headers["etag"]
    for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = await client.get("/", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    for known in ('"other"', etag.replace('"', ""), ""):
        assert (await client.get("/", headers={"if-none-match": known})).status_code == 200
    for link in links(page):
        assert "immutable" in (await client.get(link)).headers["cache-control"]


async def test_the_policy_of_the_page_allows_no_other_host_and_no_inline_script(client):
    page = await client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)


@pytest.mark.parametrize("file", [path for path in STATIC.rglob("*") if path.is_file()], ids=lambda path: path.name)
def test_no_file_of_the_page_names_another_host(file):
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z0-9-]+\.[a-z]", text)


async def test_other_paths_are_not_found(client):
    version = links(await client.get("/"))[0].split("/")[1]
    for path in (f"/web/{version}/", f"/web/{version}/nothing.js", f"/web/{version}/../page.py", "/web/other/main.js"):
        assert (await client.get(path)).status_code == 404
    assert (await client.head(f"/web/{version}/main.js")).status_code == 200


async def test_the_page_needs_no_key_and_is_served_while_the_service_drains(digits_model):
    application = create_app(Settings(model=digits_model, device="cpu", threads=1, api_key="a-key-of-16-char"))
    async with running(application) as client:
        application.state.services.state.drain()
        page = await client.get("/")
        assert {(await client.get(path)).status_code for path in ("/", *links(page))} == {200}


async def test_the_page_can_be_turned_off(serve):
    async with serve(page=False) as client:
        assert (await client.get("/")).status_code == 307
        assert (await client.get("/web/main.js")).status_code == 404
