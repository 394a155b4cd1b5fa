"""The edge: ids, keys, limits, headers, and a log that tells what happened without telling secrets."""

import asyncio
import logging
import re
import shutil
from collections.abc import AsyncIterator
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import running, until

from app.door import BODIES
from app.main import create_app
from app.png import write_png
from app.settings import Settings

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}
PROBES = ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json")
ENDPOINTS = (("POST", "/encode"), ("POST", "/decode"), ("POST", "/score"), ("GET", "/sample"), ("GET", "/model"))


@pytest.fixture(scope="module")
def png(digits) -> bytes:
    return write_png(digits[0])


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize("claimed", ["a", "trace-1.2:3_Z", "x" * 128])
async def test_a_callers_request_id_is_taken_over(client, claimed):
    for path in ("/model", "/nowhere"):
        answer = await client.get(path, headers={"X-Request-ID": claimed})
        assert answer.headers["X-Request-ID"] == claimed
        assert answer.json().get("request_id", claimed) == claimed


@pytest.mark.parametrize("claimed", ["", "two words", "x" * 129, "é", "a,b", 'a"b', "<script>"])
async def test_a_request_id_that_could_do_harm_is_replaced(client, claimed):
    headers = [{"X-Request-ID": claimed.encode()}] * 2
    made = [(await client.get("/model", headers=each)).headers["X-Request-ID"] for each in headers]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    assert made[0] != made[1]


@pytest.fixture(scope="module")
async def locked(serve, tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("from-the-file\n\n  clé-ü  \npà\n")
    async with serve(api_key="right, other", api_key_file=file) as client:
        yield client


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), bearer("right,"), {"Authorization": "Basic right"}]
)
async def test_without_a_right_key_there_is_no_way_in(locked, headers):
    for method, path in (*ENDPOINTS, ("GET", "/nowhere"), ("GET", "/docsecret"), ("GET", "/livez2")):
        answer = await locked.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json()["title"] == "Unauthorised"


@pytest.mark.parametrize("key", ["right", "other", "from-the-file", "clé-ü", "pà"])
async def test_each_of_several_keys_opens(locked, key):
    assert (await locked.get("/model", headers=bearer(key))).status_code == 200
    assert (await locked.get("/model", headers={"Authorization": f"bearer  {key}".encode()})).status_code == 200


@pytest.mark.parametrize(("headers", "came"), [({}, "none"), (bearer("wrong"), "another")])
async def test_whether_a_key_came_at_all_is_told(locked, headers, came):
    assert (await locked.get("/model", headers=headers)).json()["detail"].endswith(f"got {came}")


@pytest.mark.parametrize("path", PROBES)
async def test_probes_and_documentation_are_open(locked, path):
    assert (await locked.get(path)).status_code == 200


async def test_the_documentation_finds_its_own_files(locked):
    links = re.findall(r'(?:src|href)="(/[^"]+)"', (await locked.get("/docs")).text)
    assert links
    for link in links:
        assert (await locked.get(link)).status_code == 200


async def test_keys_are_neither_logged_nor_measured(digits_model, caplog):
    caplog.set_level(logging.DEBUG)
    app = create_app(Settings(model=digits_model, device="cpu", threads=1, api_key="hunter2"))
    async with running(app) as client:
        for key in ("hunter2", "hunter3"):
            await client.get(f"/sample?n=1&key={key}", headers=bearer(key))
            await client.get(f"/{key}", headers=bearer(key))
        exposed = (await client.get("/metrics")).text
    own = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert len([record for record in own if record.name == "app.access"]) == 4
    assert "hunter" not in exposed
    assert not any("hunter" in f"{record.getMessage()} {record.__dict__}" for record in own)


async def test_the_body_limit_holds_to_the_byte_announced_or_not(serve, png):
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
        app.state.door.draining = True
        for method, path in ENDPOINTS:
            answer = await client.request(method, path)
            assert (answer.status_code, answer.json()["detail"]) == (503, "the service is draining")
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Connection"] == "close"
        assert (await client.get("/readyz")).status_code == 503
        assert {(await client.get(path)).status_code for path in ("/livez", "/metrics", "/docs")} == {200}


@pytest.mark.parametrize("asked", ["", "soon", "0", "-1", "1e3", "inf", "nan", "0x10", "1,5", "9" * 10, " 1 s"])
async def test_a_deadline_that_is_no_number_of_seconds_is_refused_in_a_sentence(client, asked):
    answer = await client.get("/model", headers={"X-Request-Timeout": asked})
    assert (answer.status_code, answer.json()["title"]) == (422, "Unusable input")
    assert "X-Request-Timeout: expected seconds" in answer.json()["detail"]


async def test_a_callers_deadline_counts_where_it_is_the_shorter_one(serve, png):
    queued = {"max_batch_delay_ms": 10_000}
    for allowed, asked in ((60, "0.05"), (0.05, "60")):
        async with serve(request_timeout_s=allowed, **queued) as client:
            answer = await client.post("/encode", content=png, headers={**PNG, "X-Request-Timeout": asked})
            assert (answer.status_code, answer.json()["title"]) == (504, "Deadline exceeded")


async def test_a_deadline_passes_while_large_pictures_are_read_as_well(client):
    picture = write_png(np.zeros((1, 4000, 4000), np.uint8))
    answer = await client.post("/encode", content=picture, headers={**PNG, "X-Request-Timeout": "0.001"})
    assert (answer.status_code, "images were not read" in answer.json()["detail"]) == (504, True)


async def test_bodies_that_are_too_many_together_are_refused_and_those_before_them_read_on(digits_model, device):
    app, rest = create_app(Settings(model=digits_model, device=device, threads=1, max_body_bytes=1000)), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(900)
        await rest.wait()

    async with running(app) as client:
        inside = [asyncio.create_task(client.post("/encode", content=body(), headers=PNG)) for _ in range(BODIES + 1)]
        await until(lambda: app.state.door.held == 900 * (BODIES + 1))
        refused = await client.post("/encode", content=body(), headers=PNG)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        rest.set()
        assert {(await task).status_code for task in inside} == {422}
        assert app.state.door.held == 0


async def test_browsers_of_the_named_origins_may_call_and_see_the_headers(serve):
    origin = {"Origin": "https://lab.example"}
    async with serve(cors_origins="https://lab.example, https://x.example", api_key="key") as client:
        asks = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert (await client.options("/encode", headers=asks)).status_code == 200
        for headers in (origin, {**origin, **bearer("key")}):
            answer = await client.get("/model", headers=headers)
            assert answer.headers["Access-Control-Allow-Origin"] == "https://lab.example"
            assert "X-Seed" in answer.headers["Access-Control-Expose-Headers"]
        stranger = await client.get("/model", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in stranger.headers


@pytest.mark.parametrize("name", ["модель", "two\nlines", "a%20b", "plain-1.2_(x)"])
async def test_a_model_is_named_in_a_header_whatever_the_name_of_its_folder(digits_model, device, tmp_path, png, name):
    shutil.copytree(digits_model, tmp_path / name)
    async with running(create_app(Settings(model=tmp_path / name, device=device, threads=1))) as client:
        told = (await client.get("/model")).json()["model"]
        assert told.startswith(f"{name}:")
        for content, status in ((png, 200), (b"garbage", 422)):
            answer = await client.post("/encode", content=content, headers=PNG)
            assert (answer.status_code, unquote(answer.headers["X-Model"])) == (status, told)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/model", "/sample?seed=1", "/nowhere"])
async def test_a_head_is_a_get_without_the_body(client, path):
    head, whole = [await client.request(method, path) for method in ("HEAD", "GET")]
    assert head.status_code == whole.status_code
    assert head.headers["content-type"] == whole.headers["content-type"]


async def test_what_a_model_computed_is_kept_by_no_cache(client, png):
    for answer in (await client.get("/sample"), await client.post("/encode", content=png, headers=PNG)):
        assert answer.headers["Cache-Control"] == "no-store"


async def test_server_timing_tells_where_the_time_went(client, png):
    answer = await client.post("/reconstruct", content=png, headers=PNG)
    stages = dict(re.findall(r"(\w+);dur=(\d+\.\d+)", answer.headers["Server-Timing"]))
    assert list(stages) == ["queue", "batch", "infer", "codec"]
    assert float(stages["infer"]) > 0
    assert float(stages["codec"]) > 0


async def test_every_answer_forbids_sniffing(client, png):
    for path in ("/encode", "/nowhere"):
        answer = await client.post(path, content=png, headers=PNG)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_log_has_a_line_for_each_request_and_none_for_a_probe(client, png, caplog):
    caplog.set_level(logging.INFO, "app.access")
    await client.post("/encode", content=png, headers={**PNG, "X-Request-ID": "an-id"})
    for path in PROBES:
        await client.get(path)
    (line,) = [record for record in caplog.records if record.name == "app.access"]
    assert line.getMessage() == "POST /encode 200"
    assert (line.request_id, line.status, line.bytes_in) == ("an-id", 200, len(png))
    assert line.ms >= line.infer_ms > 0


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/nowhere", "/nowhere"),
        ("/encode/", "/encode/"),
        ("/a%20b%0Ac%1B%5B31m%E2%80%A8d", "/a%20b%0Ac%1B%5B31m%E2%80%A8d"),
        ("/" + "x" * 300, "/" + "x" * 199),
        ("/" + "%0A" * 300, ("/" + "%0A" * 300)[:200]),
    ],
)
async def test_the_log_tells_which_path_is_no_endpoint(client, caplog, path, told):
    caplog.set_level(logging.INFO, "app.access")
    answer = await client.get(path, headers={"X-Request-ID": "an-id"})
    await client.get("/model")
    strange, known = [record for record in caplog.records if record.name == "app.access"]
    assert strange.getMessage() == f"GET other {answer.status_code}"
    assert strange.path == told
    assert "path" not in known.__dict__
    assert 'endpoint="/nowhere"' not in (await client.get("/metrics")).text


async def test_an_unexpected_failure_is_a_problem_without_a_trace_and_the_log_has_it(digits_model, caplog):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("hunter2")

    async with running(app) as client:
        answer = await client.get("/broken", headers={"X-Request-ID": "an-id"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "hunter2" not in answer.text
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (line.request_id, str(line.exc_info[1])) == ("an-id", "hunter2")
