"""Invalid requests get problem details with a sentence and the right status, never a 500."""

import json

import numpy as np
import pytest

from app.codecs.images import write_npy
from app.codecs.png import write_png
from app.errors import QueueFull, ServiceError
from app.http.problems import problem
from tests.support.image_files import header_of_png

pytestmark = pytest.mark.anyio


def test_problem_details_have_the_members_of_rfc_9457_and_error():
    answer = problem(QueueFull("full", retry_after=7), "an-id")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "type": "urn:vae:problem:queue-full",
        "title": "Queue full",
        "status": 429,
        "detail": "full",
        "error": "full",
        "request_id": "an-id",
    }


def test_every_error_class_has_a_type_and_a_status_of_its_own():
    tree = ServiceError.__subclasses__()
    statuses = {error.status for error in tree}
    assert statuses == {400, 401, 403, 404, 405, 406, 408, 409, 413, 414, 415, 422, 429, 431, 501, 503, 504, 505}
    assert len(statuses) == len(tree) == len({error.title for error in tree})


def image(content: bytes, kind: str = "image/png") -> dict:
    return {"content": content, "headers": {"content-type": kind}}


def latents(value: object) -> dict:
    return {"content": json.dumps({"latents": value}), "headers": {"content-type": "application/json"}}


PICTURE = write_png(np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
BAD = {
    "not an image": ("POST", "/encode", image(b"hello"), 422, "images[0]: expected PNG"),
    "half a PNG": ("POST", "/reconstruct", image(PICTURE[:50]), 422, "truncated or damaged"),
    "a PNG of 20000 x 20000": ("POST", "/score", image(header_of_png(20_000, 20_000)), 413, "pixels allowed"),
    "a PNG of 65537 x 1": ("POST", "/score", image(header_of_png(65_537, 1)), 413, "a side of more than 65536 pixels"),
    "an empty body": ("POST", "/encode", image(b""), 400, "the body is empty; expected PNG, JPEG, WEBP"),
    "no latents at all": (
        "POST",
        "/decode",
        image(b"", "application/json"),
        400,
        "the body is empty; expected application/json or .npy",
    ),
    "a wrong content type": ("POST", "/encode", image(b"hello", "text/plain"), 415, "expected PNG, JPEG"),
    "an image for decoding": ("POST", "/decode", image(PICTURE), 415, "expected application/json"),
    "an unacceptable Accept": (
        "GET",
        "/sample",
        {"headers": {"Accept": "text/html"}},
        406,
        "asks for none of them, got 'text/html'",
    ),
    "an Accept without end": (
        "GET",
        "/sample",
        {"headers": {"Accept": "a/b" + ";" * 64_000}},
        406,
        "answers image/png",
    ),
    "a body that is packed": (
        "POST",
        "/encode",
        {"content": b"x", "headers": {"content-type": "image/png", "content-encoding": "br"}},
        415,
        "without a content encoding, or in gzip, x-gzip, deflate, zstd, got 'br'",
    ),
    "n of 0": ("GET", "/sample?n=0", {}, 422, "n: expected a number greater than or equal to 1, got '0'"),
    "n of 100000": ("GET", "/sample?n=100000", {}, 413, "100000 images: more than the 4096 items"),
    "n of words": ("GET", "/sample?n=many", {}, 422, "n: expected a valid integer of digits alone, got 'many'"),
    "n of nothing": ("GET", "/sample?n=", {}, 422, "n: expected a valid integer of digits alone, got ''"),
    "n as a float": ("GET", "/sample?n=1.0", {}, 422, "n: expected a valid integer of digits alone, got '1.0'"),
    "n with a sign": ("GET", "/sample?n=%2B3", {}, 422, "n: expected a valid integer of digits alone, got '+3'"),
    "n with a blank": ("GET", "/sample?n=+3", {}, 422, "n: expected a valid integer of digits alone, got ' 3'"),
    "n as in Python": ("GET", "/sample?n=1_0", {}, 422, "n: expected a valid integer of digits alone, got '1_0'"),
    "n and a line break": ("GET", "/sample?n=3%0a", {}, 422, r"n: expected a valid integer of digits alone, got '3\n'"),
    "a seed as a float": ("GET", "/sample?seed=1.0", {}, 422, "seed: expected a valid integer of digits alone, got"),
    "columns as a float": ("GET", "/sample?columns=1.0", {}, 422, "columns: expected a valid integer of digits alone"),
    "draws as a float": ("POST", "/score?samples=1.0", image(PICTURE), 422, "samples: expected a valid integer of dig"),
    "a temperature as in Python": ("GET", "/sample?temperature=1_0", {}, 422, "temperature: expected a finite number"),
    "a temperature without end": ("GET", "/sample?temperature=inf", {}, 422, "temperature: expected a finite number"),
    "a temperature with a sign": ("GET", "/sample?temperature=%2B1", {}, 422, "temperature: expected a finite number"),
    "a long temperature": (
        "GET",
        f"/sample?temperature={'1' * 7000}x",
        {},
        422,
        "temperature: expected a number of at most 128 characters, got '1111",
    ),
    "a long n": ("GET", f"/sample?n={'1' * 129}", {}, 422, "n: expected a number of at most 128 characters, got '1111"),
    "a temperature of 1e999": ("GET", "/sample?temperature=1e999", {}, 422, "temperature: expected"),
    "n beyond numbers": ("GET", f"/sample?n={'9' * 5000}", {}, 422, "n: "),
    "draws beyond the limit": ("POST", "/encode?samples=5000", image(PICTURE), 413, "with 5000 draws each"),
    "no draws": ("POST", "/score?samples=0", image(PICTURE), 422, "samples: "),
    "a negative seed": ("GET", "/sample?seed=-1", {}, 422, "seed: "),
    "a seed beyond 63 bits": ("GET", f"/sample?seed={2**63}", {}, 422, "seed: "),
    "no columns": ("GET", "/sample?columns=0", {}, 422, "columns: "),
    "a parameter of another name": (
        "GET",
        "/sample?num=3",
        {},
        422,
        "query: unknown parameter 'num'; known are n, temperature, columns, seed",
    ),
    "a parameter where none is": ("GET", "/model?n=3", {}, 422, "query: unknown parameter 'n'; known are none"),
    "several unknown parameters": (
        "GET",
        "/sample?num=1&n=2&seeds=3&num=4",
        {},
        422,
        "query: unknown parameters 'num', 'seeds'; known are n, temperature, columns, seed",
    ),
    "many unknown parameters": (
        "GET",
        "/sample?" + "&".join(f"a{n}=1" for n in range(99)),
        {},
        422,
        "'a6', 'a7', ...; known are",
    ),
    "a seed over the limit": ("GET", "/sample?seed=9223372036854775808", {}, 422, "less than 9223372036854775808, got"),
    "many draws of one image": (
        "POST",
        "/encode?samples=99999",
        image(PICTURE),
        413,
        "1 image with 99999 draws each: ",
    ),
    "an image to decode": (
        "POST",
        "/decode",
        image(PICTURE),
        415,
        "expected application/json or .npy, got an image (PNG)",
    ),
    "a mistyped field": (
        "POST",
        "/encode",
        {"json": {"image": ["abc"]}},
        422,
        "unknown field 'image'; known are images",
    ),
    "an array without logvars": (
        "POST",
        "/decode",
        image(write_npy(np.zeros((1, 3, 4), np.float32))),
        422,
        "[2 + L, N, 4]",
    ),
    "a parameter twice": (
        "GET",
        "/sample?n=2&n=3",
        {},
        422,
        "query: expected each parameter once, got 'n' more than once",
    ),
    "a parameter name that breaks lines": (
        "GET",
        "/sample?a%0d%0aX-A:%201=3",
        {},
        422,
        r"parameter 'a\r\nX-A: 1'; known",
    ),
    "a parameter name without end": ("GET", f"/sample?{'a' * 9000}=3", {}, 422, f"parameter '{'a' * 100}'...; known"),
    "a temperature of NaN": ("GET", "/sample?temperature=nan", {}, 422, "temperature: expected a finite"),
    "a boiling temperature": ("GET", "/sample?temperature=11", {}, 422, "temperature: "),
    "an unknown fit": ("POST", "/encode?fit=stretch", image(PICTURE), 422, "'resize', 'pad', 'crop' or 'exact'"),
    "a misfit": ("POST", "/encode?fit=exact", image(header_of_png(9, 9)), 422, ""),
    "a latent too long": ("POST", "/decode", latents([[0] * 5]), 422, "latents[0]: expected 4 numbers, got 5"),
    "a latent too short": ("POST", "/decode", latents([[0] * 4, []]), 422, "latents[1]: expected 4 numbers, got 0"),
    "no latents": ("POST", "/decode", latents([]), 422, "latents: "),
    "a latent of NaN": (
        "POST",
        "/decode",
        latents([[0, 0, 0, float("nan")]]),
        422,
        "finite numbers, got NaN at line 1",
    ),
    "a latent of 1e39": ("POST", "/decode", latents([[0, 0, 0, 1e39]]), 422, "latents[0][3]: expected a finite"),
    "a latent of words": ("POST", "/decode", latents([["0", 0, 0, 0]]), 422, "a valid number"),
    "a latent of truth": ("POST", "/decode", latents([[True, 0, 0, 0]]), 422, "a valid number"),
    "invalid JSON": ("POST", "/decode", image(b'{"latents": [', "application/json"), 400, "not JSON"),
    "a body over the limit": ("POST", "/encode", image(bytes(32 * 2**20 + 1)), 413, "bytes allowed"),
    "an unknown path": ("GET", "/nowhere", {}, 404, "no such path"),
    "a path too far": ("POST", "/encode/", image(PICTURE), 404, "no such path"),
    "a wrong method": ("GET", "/encode", {}, 405, "this path takes POST, got GET"),
    "another wrong method": ("PUT", "/sample", {}, 405, "this path takes GET, HEAD, POST, got PUT"),
}


@pytest.mark.parametrize("name", BAD)
async def test_an_invalid_request_gets_problem_details_with_a_sentence(client, name):
    method, path, request, status, sentence = BAD[name]
    answer = await client.request(method, path, **request)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert sentence in problem["detail"] == problem["error"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text
