"""Admission: API keys, limits of bodies, draining and timeouts."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from app.codecs.png import write_png
from app.http.budget import MAX_BODIES_IN_FLIGHT
from app.main import create_app
from app.settings import Settings
from tests.support.apps import PROBES, running, until

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}
ENDPOINTS = (
    ("POST", "/encode"),
    ("POST", "/decode"),
    ("POST", "/score"),
    ("GET", "/sample"),
    ("GET", "/model"),
    ("GET", "/model/history"),
)


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


def basic(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(credentials.encode()).decode()}"}


@pytest.fixture(scope="module")
async def protected(serve, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("from-the-file\n\n  clé-ü  \npà\n")
    async with serve(api_key="right, other", api_key_file=file) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        *(
            {},
            bearer("wrong"),
            bearer(""),
            bearer("right,"),
            {"Authorization": "Basic right"},
            {"Authorization": "Basic"},
        ),
        *map(basic, ("", ":", "right", "right:wrong", ":right:", "x:righ", "::right")),
    ],
)
async def test_a_request_without_a_valid_key_is_refused(protected, headers):
    for method, path in (*ENDPOINTS, ("GET", "/nowhere"), ("GET", "/docsecret"), ("GET", "/livez2")):
        answer = await protected.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json()["title"] == "Unauthorised"


@pytest.mark.parametrize("key", ["right", "other", "from-the-file", "clé-ü", "pà"])
async def test_each_of_several_keys_is_accepted(protected, key):
    assert (await protected.get("/model", headers=bearer(key))).status_code == 200
    assert (await protected.get("/model", headers={"Authorization": f"bearer  {key}".encode()})).status_code == 200


@pytest.mark.parametrize("key", ["right", "other", "from-the-file", "clé-ü", "pà"])
@pytest.mark.parametrize("form", [":{}", "{}:", "anybody:{}"])
async def test_basic_credentials_carry_a_key_for_clients_that_know_a_url_alone(protected, key, form):
    assert (await protected.get("/model", headers=basic(form.format(key)))).status_code == 200


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({}, "missing API key"),
        (bearer("wrong"), "unknown API key"),
        (basic(":wrong"), "unknown API key"),
        ({"Authorization": "Basic right"}, "malformed Basic credentials in the Authorization header; expected base64"),
        ({"Authorization": "right"}, "missing scheme in the Authorization header; expected 'Bearer KEY'"),
    ],
)
async def test_the_detail_distinguishes_a_missing_key_from_an_unknown_one(protected, headers, problem):
    assert (await protected.get("/model", headers=headers)).json()["detail"].startswith(problem)


@pytest.mark.parametrize("path", PROBES)
async def test_probes_and_documentation_require_no_key(protected, path):
    assert (await protected.get(path)).status_code == 200


async def test_the_files_of_the_documentation_page_exist(protected):
    links = re.findall(r'(?:src|href)="(docs/[^"]+)"', (await protected.get("/docs")).text)
    assert len(links) == 3
    for link in links:
        assert (await protected.get(f"/{link}")).status_code == 200


async def test_the_body_limit_is_exact_with_and_without_a_content_length(serve, png):
    async def in_pieces():
        for place in range(0, len(png), 10):
            yield png[place : place + 10]

    for limit, status in ((len(png), 200), (len(png) - 1, 413)):
        async with serve(max_body_bytes=limit) as client:
            for content in (png, in_pieces()):
                answer = await client.post("/encode", content=content, headers=PNG)
                assert answer.status_code == status


async def test_a_draining_service_refuses_new_work_but_answers_its_probes(digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    async with running(app) as client:
        app.state.services.state.drain()
        for method, path in ENDPOINTS:
            answer = await client.request(method, path)
            assert (answer.status_code, answer.json()["detail"]) == (503, "the service is draining")
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Connection"] == "close"
        assert (await client.get("/readyz")).status_code == 503
        assert {(await client.get(path)).status_code for path in ("/livez", "/metrics", "/docs")} == {200}


NO_SECONDS = ["soon", "0", "0.0", "-1", "+1", "inf", "nan", "0x10", "1,5", ".5", "5.", "1e", "1_0", "1e999", "1e-999"]
TOO_LONG = ["86401", "86400.1", "1e6", "9" * 100, "1" * 60_000]


@pytest.mark.parametrize("seconds", ["", " 1 s", *NO_SECONDS, *TOO_LONG])
async def test_a_timeout_that_is_not_a_number_of_seconds_is_refused_and_quoted(client, seconds):
    answer = await client.get("/model", headers={"X-Request-Timeout": seconds})
    assert (answer.status_code, answer.json()["title"]) == (422, "Unusable input")
    assert "X-Request-Timeout: expected seconds" in answer.json()["detail"]
    assert seconds.strip()[:40] in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 200


@pytest.mark.parametrize("seconds", ["86400", "86400.0", "8.64e4", "1e3", "1E+3", "30", "2.5", "007", "1e-1"])
async def test_a_timeout_of_up_to_a_day_is_accepted_in_any_spelling(client, seconds):
    assert (await client.get("/model", headers={"X-Request-Timeout": seconds})).status_code == 200


@pytest.mark.parametrize("seconds", ["5e-324", "1e-9", "0.000000000001"])
async def test_the_smallest_timeout_has_already_passed(client, png, seconds):
    answer = await client.post("/encode", content=png, headers={**PNG, "X-Request-Timeout": seconds})
    assert (answer.status_code, answer.json()["title"]) == (504, "Deadline exceeded")


@pytest.mark.parametrize("path", ["/model", "/sample", "/livez", "/metrics", "/docs", "/nowhere"])
async def test_a_query_of_many_parameters_is_refused_before_it_is_parsed(client, path):
    for query in ("a&" * 100, "&" * 100, "n=1&" * 2000):
        answer = await client.get(f"{path}?{query}")
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["detail"] == f"query: expected at most 100 parameters, got {query.count('&') + 1}"
        assert answer.headers["X-Request-ID"]


async def test_a_request_with_two_keys_is_refused_even_if_one_is_valid(protected):
    for keys in (("right", "wrong"), ("wrong", "right"), ("right", "right")):
        answer = await protected.get("/model", headers=[("Authorization", f"Bearer {key}") for key in keys])
        assert (answer.status_code, answer.json()["title"]) == (400, "Malformed request")
        assert answer.json()["detail"] == "Authorization: expected one such header, got 2"


async def test_a_content_length_of_thousands_of_digits_is_no_server_error(client, png):
    answer = await client.post("/encode", content=png, headers={**PNG, "Content-Length": "0" * 5000 + str(len(png))})
    assert answer.status_code == 200


async def test_the_shorter_timeout_of_client_and_service_applies(serve, png):
    queued = {"max_batch_delay_ms": 10_000}
    for allowed, seconds in ((60, "0.05"), (0.05, "60")):
        async with serve(request_timeout_s=allowed, **queued) as client:
            answer = await client.post("/encode", content=png, headers={**PNG, "X-Request-Timeout": seconds})
            assert (answer.status_code, answer.json()["title"]) == (504, "Deadline exceeded")


async def test_the_deadline_applies_while_large_images_are_decoded(client):
    picture = write_png(np.zeros((1, 4000, 4000), np.uint8))
    answer = await client.post("/encode", content=picture, headers={**PNG, "X-Request-Timeout": "0.001"})
    assert (answer.status_code, "images were not read" in answer.json()["detail"]) == (504, True)


async def test_a_body_over_the_limit_of_all_bodies_is_refused_and_the_others_are_read(digits_model, device):
    app, rest = create_app(Settings(model=digits_model, device=device, threads=1, max_body_bytes=1000)), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(900)
        await rest.wait()

    async with running(app) as client:
        inside = [
            asyncio.create_task(client.post("/encode", content=body(), headers=PNG))
            for _ in range(MAX_BODIES_IN_FLIGHT + 1)
        ]
        await until(lambda: app.state.services.budget.body_bytes == 900 * (MAX_BODIES_IN_FLIGHT + 1))
        refused = await client.post("/encode", content=body(), headers=PNG)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        rest.set()
        assert {(await task).status_code for task in inside} == {422}
        assert app.state.services.budget.body_bytes == 0


async def test_a_service_that_is_not_ready_says_why(digits_model):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://vae") as client:
        async with app.router.lifespan_context(app):
            early = await client.get("/sample?n=1")
            assert (early.status_code, early.json()["detail"]) == (503, "the model is warming up")
        late = await client.get("/sample?n=1")
        assert (late.status_code, late.json()["detail"]) == (503, "the service is shutting down")
