"""Request lifecycle: request ids, response headers, access log and CORS."""

import logging
import re
import shutil
from urllib.parse import unquote

import pytest
from starlette.requests import Request
from starlette.responses import Response

from app.main import create_app
from app.settings import Settings
from tests.support.apps import PROBES, running

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}


@pytest.mark.parametrize("claimed", ["a", "trace-1.2:3_Z", "x" * 128])
async def test_a_valid_request_id_of_the_client_is_used(client, claimed):
    for path in ("/model", "/nowhere"):
        answer = await client.get(path, headers={"X-Request-ID": claimed})
        assert answer.headers["X-Request-ID"] == claimed
        assert answer.json().get("request_id", claimed) == claimed


@pytest.mark.parametrize("claimed", ["", "two words", "x" * 129, "é", "a,b", 'a"b', "<script>"])
async def test_an_unsafe_request_id_is_replaced(client, claimed):
    headers = [{"X-Request-ID": claimed.encode()}] * 2
    made = [(await client.get("/model", headers=each)).headers["X-Request-ID"] for each in headers]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    assert made[0] != made[1]


async def test_a_wrong_key_is_neither_logged_nor_in_metrics(serve, caplog):
    caplog.set_level(logging.DEBUG)
    async with serve(api_key="hunter2") as client:
        headers = {"Authorization": "Bearer hunter3", "X-Request-ID": "wrong-key"}
        await client.get("/sample?n=1&key=hunter3", headers=headers)
        await client.get("/hunter3", headers=headers)
        exposed = (await client.get("/metrics")).text
    own = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    lines = [record for record in own if record.name == "app.access"]
    assert [line.fields["status"] for line in lines if line.fields["request_id"] == "wrong-key"] == [401, 401]
    assert "hunter" not in exposed
    assert not any("hunter" in f"{record.getMessage()} {record.__dict__}" for record in own)


async def test_allowed_origins_may_call_and_read_the_headers(serve):
    origin = {"Origin": "https://lab.example"}
    async with serve(cors_origins="https://lab.example, https://x.example", api_key="key") as client:
        asks = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        allowed = await client.options("/encode", headers=asks)
        assert allowed.status_code == 200
        assert allowed.headers["X-Request-ID"]
        for headers in (origin, {**origin, "Authorization": "Bearer key"}):
            answer = await client.get("/model", headers=headers)
            assert answer.headers["Access-Control-Allow-Origin"] == "https://lab.example"
            assert "X-Seed" in answer.headers["Access-Control-Expose-Headers"]
        other_origin = await client.get("/model", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other_origin.headers


@pytest.mark.parametrize(
    ("origin", "method", "more", "detail"),
    [
        ("https://evil.example", "POST", {}, "Origin: expected one of VAE_CORS_ORIGINS, got 'https://evil.example'"),
        ("null", "GET", {}, "Origin: expected one of VAE_CORS_ORIGINS, got 'null'"),
        ("https://lab.example", "PUT", {}, "Access-Control-Request-Method: expected GET or POST, got 'PUT'"),
        (
            "https://lab.example",
            "GET",
            {"Access-Control-Request-Private-Network": "true"},
            "Access-Control-Request-Private-Network: expected none",
        ),
    ],
)
async def test_a_refused_preflight_gets_problem_details(serve, origin, method, more, detail):
    headers = {"Origin": origin, "Access-Control-Request-Method": method, "X-Request-ID": "an-id", **more}
    async with serve(cors_origins="https://lab.example", api_key="key") as client:
        answer = await client.options("/encode", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert (answer.json()["detail"], answer.json()["request_id"]) == (detail, "an-id")
    assert answer.headers["X-Request-ID"] == "an-id"
    assert "Origin" in answer.headers["Vary"]
    allowed = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed == (origin if origin == "https://lab.example" else None)


async def test_a_refused_origin_is_quoted_in_bounded_length(serve):
    headers = {"Origin": "https://" + "x" * 60_000, "Access-Control-Request-Method": "y" * 60_000}
    async with serve(cors_origins="https://lab.example") as client:
        answer = await client.options("/encode", headers=headers)
    assert len(answer.json()["detail"]) < 500


@pytest.mark.parametrize("name", ["модель", "two\nlines", "a%20b", "plain-1.2_(x)"])
async def test_any_folder_name_of_a_model_is_valid_in_the_model_header(digits_model, device, tmp_path, png, name):
    shutil.copytree(digits_model, tmp_path / name)
    async with running(create_app(Settings(model=tmp_path / name, device=device, threads=1))) as client:
        sentence = (await client.get("/model")).json()["model"]
        assert sentence.startswith(f"{name}:")
        for content, status in ((png, 200), (b"garbage", 422)):
            answer = await client.post("/encode", content=content, headers=PNG)
            assert (answer.status_code, unquote(answer.headers["X-Model"])) == (status, sentence)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/model", "/sample?seed=1", "/nowhere"])
async def test_head_equals_get_without_a_body(client, path):
    head, get = [await client.request(method, path) for method in ("HEAD", "GET")]
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_computed_responses_must_not_be_cached(client, png):
    for answer in (await client.get("/sample"), await client.post("/encode", content=png, headers=PNG)):
        assert answer.headers["Cache-Control"] == "no-store"


async def test_server_timing_has_the_time_of_each_stage(client, png):
    answer = await client.post("/reconstruct", content=png, headers=PNG)
    stages = dict(re.findall(r"(\w+);dur=(\d+\.\d+)", answer.headers["Server-Timing"]))
    assert list(stages) == ["queue", "batch", "infer", "codec"]
    assert float(stages["infer"]) > 0
    assert float(stages["codec"]) > 0


async def test_every_response_forbids_content_sniffing(client, png):
    for path in ("/encode", "/nowhere"):
        answer = await client.post(path, content=png, headers=PNG)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def watch_access_log(client, caplog) -> None:
    await client.get("/metrics")  # writes the lines of the requests before
    caplog.set_level(logging.INFO, "app.access")


async def access_lines(client, caplog) -> list[logging.LogRecord]:
    await client.get("/metrics")  # writes the lines with the counts
    return [record for record in caplog.records if record.name == "app.access"]


async def test_each_request_has_an_access_log_line_and_probes_have_none(client, png, caplog):
    await watch_access_log(client, caplog)
    await client.post("/encode", content=png, headers={**PNG, "X-Request-ID": "an-id"})
    for path in PROBES:
        await client.get(path)
    (line,) = await access_lines(client, caplog)
    assert line.getMessage() == "POST /encode 200"
    fields = line.fields
    assert (fields["request_id"], fields["status"], fields["bytes_in"]) == ("an-id", 200, len(png))
    assert fields["ms"] >= fields["infer_ms"] > 0


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/nowhere", "/nowhere"),
        ("/encode/", "/encode/"),
        ("/a%20b%0Ac%1B%5B31m%E2%80%A8d", "/a%20b%0Ac%1B%5B31m%E2%80%A8d"),
        ("/" + "x" * 300, "/" + "x" * 199),
        ("/" + "%0A" * 300, ("/" + "%0A" * 300)[:200]),
    ],
)
async def test_the_access_log_has_the_path_of_an_unknown_endpoint(client, caplog, path, sentence):
    await watch_access_log(client, caplog)
    answer = await client.get(path, headers={"X-Request-ID": "an-id"})
    await client.get("/model")
    strange, known = await access_lines(client, caplog)
    assert strange.getMessage() == f"GET other {answer.status_code}"
    assert strange.fields["path"] == sentence
    assert "path" not in known.fields
    assert 'endpoint="/nowhere"' not in (await client.get("/metrics")).text


async def test_an_unexpected_exception_gets_500_without_details_and_is_logged(digits_model, caplog):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))

    async def broken(request: Request) -> Response:
        raise RuntimeError("hunter2")

    app.add_route("/broken", broken)

    async with running(app) as client:
        answer = await client.get("/broken", headers={"X-Request-ID": "an-id"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "hunter2" not in answer.text
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (line.request_id, str(line.exc_info[1])) == ("an-id", "hunter2")
