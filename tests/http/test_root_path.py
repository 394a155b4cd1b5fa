"""The service below a path prefix, with a proxy that removes the prefix from paths and with one that keeps it."""

import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from app.main import create_app
from app.settings import Settings, SettingsError
from tests.support.apps import running
from tests.support.metrics import metric

pytestmark = pytest.mark.anyio

PREFIX = "/models/vae"
PNG = {"content-type": "image/png"}


@pytest.fixture(params=["", PREFIX], ids=["removed", "kept"])
def below(request) -> str:
    """What the proxy leaves of the prefix."""
    return request.param


@pytest.fixture(scope="module")
async def client(serve):
    async with serve(root_path=PREFIX) as client:
        yield client


async def test_every_kind_of_path_is_served(client, below, png):
    for path in (
        "/model",
        "/livez",
        "/metrics",
        "/docs",
        "/docs/static/favicon.png",
        "/openapi.json",
        "/v2/health/ready",
    ):
        assert (await client.get(f"{below}{path}")).status_code == 200, path
    answer = await client.post(f"{below}/encode", content=png, headers=PNG)
    assert answer.json() == (await client.post("/encode", content=png, headers=PNG)).json()
    assert (await client.head(f"{below}/model")).status_code == 200
    assert (await client.post(f"{below}/model")).status_code == 405
    assert (await client.get(f"{below}/nowhere")).status_code == 404


async def test_a_path_that_only_begins_like_the_prefix_is_not_found(client):
    for path in ("/models", "/models/vae2/model", f"{PREFIX}{PREFIX}/model", "/models/model"):
        assert (await client.get(path)).status_code == 404


async def test_requests_are_counted_and_limited_as_those_of_their_endpoint(digits_model, below, png):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, root_path=PREFIX))
    async with running(app) as client:
        await client.post(f"{below}/encode", content=png, headers=PNG)
        app.state.services.request_log.flush()
        metrics = app.state.services.metrics
        assert metric(metrics, "requests_total", dialect="native", endpoint="/encode", status="200") == 1
        app.state.services.state.drain()
        assert (await client.post(f"{below}/encode", content=png, headers=PNG)).status_code == 503


async def test_the_page_and_the_documentation_load_below_the_prefix(client, below):
    for path in ("", "/", "/docs"):
        page = await client.get(f"{below}{path}" or "/")
        assert page.status_code == 200
        links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
        assert len(links) > 2
        for link in links:
            address = httpx.URL(f"http://vae{PREFIX}{path}").join(link)
            assert address.path.startswith(f"{PREFIX}/")
            assert (await client.get(address.path.removeprefix(PREFIX))).status_code == 200


async def test_the_server_in_the_openapi_document_is_the_prefix(client, below):
    document = (await client.get(f"{below}/openapi.json")).json()
    assert [server["url"] for server in document["servers"]] == [PREFIX]


async def test_the_redirect_without_a_page_leads_to_the_documentation(serve, below):
    async with serve(root_path=PREFIX, page=False) as client:
        for path in ("/", f"{below}/", below or "/"):
            assert (await client.get(path)).headers["location"] == f"{PREFIX}/docs"


async def test_keys_are_required_below_the_prefix(serve, below):
    async with serve(root_path=PREFIX, api_key="a-key-of-16-char") as client:
        assert (await client.get(f"{below}/model")).status_code == 401
        assert (await client.get(f"{below}/livez")).status_code == 200


async def test_the_service_works_inside_another_application(digits_model, png):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    async with running(app):
        transport = httpx.ASGITransport(app=Starlette(routes=[Mount(PREFIX, app)]))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://vae{PREFIX}/") as client:
            assert (await client.post("encode", content=png, headers=PNG)).status_code == 200
            assert (await client.get("docs/static/favicon.png")).status_code == 200
            assert (await client.get("openapi.json")).json()["servers"][0]["url"] == PREFIX


@pytest.mark.parametrize("root_path", ["/model", "/v2", "/docs", "/web"])
def test_a_prefix_of_paths_of_the_service_is_refused(digits_model: Path, root_path):
    with pytest.raises(SettingsError, match=f"below which the service has no path of its own, got '{root_path}'"):
        create_app(Settings(model=digits_model, device="cpu", threads=1, root_path=root_path))
