"""Endpoints: results, seeds and query parameters."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from app.codecs.images import write_npy
from app.codecs.png import write_png
from app.main import create_app
from app.settings import Settings
from model.checkpoint import DEFAULT, METRICS
from tests.support.apps import running
from tests.support.asgi_client import Caller

pytestmark = pytest.mark.anyio

NPY = {"Accept": "application/x-npy"}


def array(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content), allow_pickle=False)


@pytest.fixture(scope="module")
def two(digits):
    """Two digits, as a request carries them."""
    return {"files": [("images", (str(n), write_png(digits[n]))) for n in range(2)]}


@pytest.fixture(scope="module")
def png(digits):
    return {"content": write_png(digits[0]), "headers": {"content-type": "image/png"}}


async def test_encode_returns_mean_and_logvar_of_each_image(client, two):
    answer = (await client.post("/encode", **two)).json()
    assert set(answer) == {"latents", "shape", "model"}
    assert answer["shape"] == [4]
    assert answer["model"].startswith("digits:")
    assert [set(latent) for latent in answer["latents"]] == [{"mean", "logvar"}] * 2
    assert np.shape([[latent["mean"], latent["logvar"]] for latent in answer["latents"]]) == (2, 2, 4)


async def test_one_image_gets_a_list_with_one_entry(client, png):
    assert len((await client.post("/encode", **png)).json()["latents"]) == 1
    assert len((await client.post("/score", **png)).json()["scores"]) == 1


async def test_draws_follow_the_posterior(client, png):
    answer = (await client.post("/encode?samples=4000&seed=1", **png)).json()["latents"][0]
    z = np.array(answer["z"])
    standardised = (z - answer["mean"]) / np.exp(0.5 * np.array(answer["logvar"]))
    assert z.shape == (4000, 4)
    assert np.abs(standardised.mean(0)).max() < 5 / 4000**0.5
    assert np.abs(standardised.var(0) - 1).max() < 5 * (2 / 4000) ** 0.5


SEEDED = [
    ("POST", "/encode?samples=3"),
    ("POST", "/score"),
    ("POST", "/score?samples=3"),
    ("GET", "/sample?n=5"),
    ("POST", "/reconstruct?fit=resize"),
]


def ask(client, method, path, two, **params):
    query = "".join(f"&{name}={value}" for name, value in params.items())
    return client.request(method, path + query, **(two if method == "POST" else {}))


@pytest.mark.parametrize(("method", "path"), SEEDED)
async def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_bytes(client, two, method, path):
    path += "" if "?" in path else "?"
    first, again, other = [await ask(client, method, path, two, seed=seed) for seed in (7, 7, 8)]
    assert first.status_code == 200
    assert (first.headers["X-Seed"], other.headers["X-Seed"]) == ("7", "8")
    assert first.content == again.content != other.content


@pytest.mark.parametrize(("method", "path"), SEEDED[:4])
async def test_a_seed_chosen_by_the_service_is_in_the_response_and_can_be_replayed(client, two, method, path):
    path += "" if "?" in path else "?"
    first, other = [await ask(client, method, path, two) for _ in range(2)]
    assert first.headers["X-Seed"] != other.headers["X-Seed"]
    assert first.content != other.content
    again = await ask(client, method, path, two, seed=first.headers["X-Seed"])
    assert again.content == first.content


async def test_a_response_without_draws_has_no_seed(client, two, png):
    for path in ("/encode", "/reconstruct"):
        assert "X-Seed" not in (await client.post(path, **two)).headers


async def test_fewer_samples_are_a_prefix_of_more_samples(client):
    few, many = [array(await client.get(f"/sample?n={n}&seed=3", headers=NPY)) for n in (3, 9)]
    assert np.array_equal(few, many[:3])


async def test_temperature_zero_is_the_centre_of_the_prior(client):
    centre_samples = array(await client.get("/sample?n=3&temperature=0", headers=NPY))
    centre = array(await client.post("/decode", json={"latents": [[0, 0, 0, 0]]}, headers=NPY))
    assert np.abs(centre_samples.astype(int) - centre).max() <= 1
    cool, hot = [array(await client.get(f"/sample?n=9&temperature={t}&seed=0", headers=NPY)) for t in (0.5, 10)]
    assert 0 < np.ptp(cool, axis=0).mean() < np.ptp(hot, axis=0).mean()


async def test_encode_followed_by_decode_equals_reconstruct(client, two):
    encoded = await client.post("/encode", **two)
    as_npy = array(await client.post("/encode", **two, headers=NPY))
    bare = {"latents": [latent["mean"] for latent in encoded.json()["latents"]]}
    answers = [
        await client.post("/decode", content=encoded.content, headers={"content-type": "application/json", **NPY}),
        await client.post("/decode", json=bare, headers=NPY),
        await client.post("/decode", content=write_npy(as_npy[0]), headers={"content-type": NPY["Accept"], **NPY}),
        await client.post("/decode", content=write_npy(as_npy), headers={"content-type": NPY["Accept"], **NPY}),
        await client.post("/reconstruct", **two, headers=NPY),
    ]
    assert len({answer.content for answer in answers}) == 1
    assert array(answers[0]).shape == (2, 8, 8, 1)


@pytest.mark.parametrize(("query", "size"), [("n=5", (24, 16)), ("n=5&columns=2", (16, 24)), ("n=1", (8, 8))])
async def test_columns_set_the_width_of_the_grid(client, query, size):
    assert Image.open(io.BytesIO((await client.get(f"/sample?{query}")).content)).size == size


async def test_a_score_has_a_percentile_if_the_model_was_evaluated(serve, evaluated_model, two):
    async with serve(model=evaluated_model) as evaluated, serve() as not_evaluated:
        scores = (await evaluated.post("/score?seed=1", **two)).json()["scores"]
        assert [score["percentile"] for score in scores] == pytest.approx(
            [min(max(score["elbo"] + 200, 0), 100) for score in scores], abs=1e-4
        )
        sentence = (await evaluated.get("/model")).json()["scores"]
        assert sentence.endswith("; the percentile is an image's place among the images of the test split")
        assert "percentile" not in (await not_evaluated.post("/score?seed=1", **two)).json()["scores"][0]
        assert "percentile" not in (await not_evaluated.get("/model")).json()["scores"]


async def test_the_elbo_is_the_sum_of_its_terms_and_samples_add_the_tighter_bound(client, two):
    plain, tight = [(await client.post(path, **two)).json() for path in ("/score?seed=1", "/score?seed=1&samples=8")]
    assert (len(plain["scores"]), plain["unit"]) == (2, "nats")
    for score in (*plain["scores"], *tight["scores"]):
        assert score["elbo"] == pytest.approx(score["reconstruction"] - score["kl"], abs=1e-4)
        assert score["bits_per_dim"] == pytest.approx(-score["elbo"] / 64 / np.log(2), rel=1e-5)
        assert score["kl"] >= 0
    assert not any("log_likelihood" in score for score in plain["scores"])
    assert all("log_likelihood" in score for score in tight["scores"])


async def test_model_describes_the_served_model(client):
    answer = (await client.get("/model")).json()
    assert (answer["image_shape"], answer["latent_shape"], answer["likelihood"]) == ([1, 8, 8], [4], "bernoulli")
    assert answer["model"] == f"digits:{answer['digest'][:12]}"
    assert answer["precision"] == "float32"
    assert answer["architecture"]["hidden"] == [24]


async def test_the_training_history_has_an_endpoint_of_its_own(serve):
    async with serve(model=DEFAULT) as client:
        model, history = [await client.get(path) for path in ("/model", "/model/history")]
        head = await client.head("/model/history")
        assert (await client.get("/model/history?n=3")).status_code == 422
        assert (await client.post("/model/history")).status_code == 405
        assert (
            'vae_requests_total{dialect="native",endpoint="/model/history",status="200"} 2.0'
            in (await client.get("/metrics")).text
        )
    assert len(model.content) < 2000
    assert "metrics" not in model.json()
    assert history.json() == {"model": model.json()["model"], "metrics": json.loads((DEFAULT / METRICS).read_text())}
    assert history.headers["X-Model"] == model.json()["model"]
    assert head.status_code == 200
    assert head.headers["content-length"] == history.headers["content-length"]


async def test_the_root_redirects_to_the_documentation_without_the_page(serve):
    async with serve(page=False) as client:
        answer = await client.get("/", follow_redirects=True)
        assert (answer.status_code, answer.url.path) == (200, "/docs")


async def test_every_endpoint_supports_spatial_latents(serve, colour_model):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 13, 9, 3), np.uint8)
    send = {"content": write_npy(pixels), "headers": {"content-type": "application/x-npy"}}
    async with serve(model=colour_model) as client:
        encoded = await client.post("/encode?samples=3", **send)
        assert encoded.json()["shape"] == [2, 4, 3]
        assert np.shape([latent["mean"] for latent in encoded.json()["latents"]]) == (2, 2, 4, 3)
        assert np.shape([latent["z"] for latent in encoded.json()["latents"]]) == (2, 3, 2, 4, 3)
        decoded = await client.post("/decode", json=encoded.json(), headers=NPY)
        both = {"content-type": "application/x-npy", **NPY}
        drawn = await client.post("/reconstruct?seed=1", content=send["content"], headers=both)
        assert array(decoded).shape == array(drawn).shape == pixels.shape
        assert array(await client.get("/sample?n=3", headers=NPY)).shape == (3, 13, 9, 3)
        assert len((await client.post("/score?samples=2", **send)).json()["scores"]) == 2
        assert Image.open(io.BytesIO((await client.get("/sample?n=4")).content)).size == (18, 26)
        for wrong in ([0.0] * 24, [[0.0] * 3] * 8, np.zeros((2, 3, 4)).tolist(), [[[0.0], [0.0, 1.0]]]):
            answer = await client.post("/decode", json={"latents": [wrong]})
            assert (answer.status_code, answer.json()["title"]) == (422, "Unusable input")


@pytest.mark.parametrize(("path", "default"), [("/encode", "fit=resize"), ("/reconstruct", "fit=resize")])
async def test_a_request_without_a_query_equals_one_with_the_defaults(client, png, path, default):
    plain, spelled = await client.post(path, **png), await client.post(f"{path}?{default}", **png)
    assert plain.status_code == spelled.status_code == 200
    assert plain.content == spelled.content


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/encode", "POST"), ("/sample", "GET, HEAD, POST"), ("/model", "GET, HEAD"), ("*", "GET, HEAD, POST")],
)
async def test_options_names_the_methods_that_a_path_allows(digits_model, path, allowed):
    app = create_app(Settings(model=digits_model, device="cpu", threads=1))
    async with running(app):
        caller = Caller(app, "OPTIONS", path)
        await caller.task()
    assert (caller.status, dict(caller.sent[0]["headers"])[b"allow"]) == (405, allowed.encode())
    assert caller.problem["title"] == "Method not allowed"


@pytest.mark.parametrize(
    ("query", "request_of"),
    [
        ("?n=3&seed=5&temperature=0.5", {}),
        ("", {"json": {"n": 3, "seed": 5, "temperature": 0.5}}),
        ("?seed=5", {"json": {"n": 3, "temperature": 0.5}}),
        ("?seed=5&n=16&temperature=1.0", {"json": {"n": 3, "temperature": 0.5, "seed": 5}}),
    ],
)
async def test_sample_takes_its_parameters_by_post_too(client, query, request_of):
    by_get = await client.get("/sample?n=3&seed=5&temperature=0.5")
    by_post = await client.post(f"/sample{query}", **request_of)
    assert by_post.status_code == 200, by_post.text
    assert (by_post.content, by_post.headers["x-seed"]) == (by_get.content, "5")


@pytest.mark.parametrize(
    ("query", "body", "status", "sentence"),
    [
        ("?n=3", b'{"n": 4}', 422, "n: expected one value, got 'n' in query and body with two"),
        ("", b'{"m": 4}', 422, "the body: unknown field 'm'; known are n, "),
        ("", b'{"n": true}', 422, "n: expected a valid integer of digits alone, got true"),
        ("", b'{"n": 0}', 422, "n: expected a number greater than or equal to 1, got 0"),
        ("", b'{"seed": "x"}', 422, "seed: expected a valid integer of digits alone, got 'x'"),
        ("", b"[4]", 422, "the body: expected an object, got an array"),
        ("", b"{n=4", 400, "the body is not JSON"),
        ("", b"[" * 200, 413, "the body holds more than the 64 arrays"),
    ],
)
async def test_other_parameters_in_the_body_of_sample_are_refused(client, query, body, status, sentence):
    answer = await client.post(f"/sample{query}", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "got"),
    [
        ("application/x-www-form-urlencoded", b"n=3", "got the Content-Type 'application/x-www-form-urlencoded'"),
        ("", b"n=3", "got no Content-Type"),
        ("image/png", b"\x89PNG\r\n", "got an image (PNG)"),
    ],
)
async def test_parameters_of_sample_that_are_not_json_are_answered_by_the_forms_that_they_have(
    client, content_type, body, got
):
    answer = await client.post("/sample", content=body, headers={"content-type": content_type})
    assert answer.status_code == 415
    detail = answer.json()["detail"]
    assert detail.startswith("expected application/json, or the parameters in the query, as ?n=3")
    assert got in detail


@pytest.mark.parametrize(
    "content_type",
    ["", "application/vnd.me+json", "text/json", "application/octet-stream", "application/x-www-form-urlencoded"],
)
async def test_json_parameters_of_sample_are_read_with_any_content_type(client, content_type):
    answer = await client.post("/sample?seed=5", content=b' {"n": 3}', headers={"content-type": content_type})
    assert answer.status_code == 200, answer.text
    assert answer.content == (await client.get("/sample?n=3&seed=5")).content


async def test_the_methods_of_a_path_with_two_endpoints_are_allowed(client):
    answer = await client.put("/sample")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await client.head("/sample?n=1")).status_code == 200
