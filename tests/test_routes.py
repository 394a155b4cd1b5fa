"""The contract, endpoint by endpoint: shapes, seeds, limits, and a sentence for all that a caller can do wrong."""

import io
import json

import numpy as np
import pytest
from pictures import header_of_png
from PIL import Image

from app.images import write_npy, write_png

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


async def test_encode_answers_mean_and_logvar_of_each_image(client, two):
    answer = (await client.post("/encode", **two)).json()
    assert set(answer) == {"latents", "shape", "model"}
    assert answer["shape"] == [4]
    assert answer["model"].startswith("digits:")
    assert [set(latent) for latent in answer["latents"]] == [{"mean", "logvar"}] * 2
    assert np.shape([[latent["mean"], latent["logvar"]] for latent in answer["latents"]]) == (2, 2, 4)


async def test_one_image_is_answered_by_a_list_of_one(client, png):
    assert len((await client.post("/encode", **png)).json()["latents"]) == 1
    assert len((await client.post("/score", **png)).json()["scores"]) == 1


async def test_draws_from_the_posterior_lie_where_it_says(client, png):
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
async def test_a_seed_gives_the_same_bytes_always_and_another_seed_others(client, two, method, path):
    path += "" if "?" in path else "?"
    first, again, other = [await ask(client, method, path, two, seed=seed) for seed in (7, 7, 8)]
    assert first.status_code == 200
    assert (first.headers["X-Seed"], other.headers["X-Seed"]) == ("7", "8")
    assert first.content == again.content != other.content


@pytest.mark.parametrize(("method", "path"), SEEDED[:4])
async def test_a_seed_that_the_service_drew_is_told_and_replays(client, two, method, path):
    path += "" if "?" in path else "?"
    first, other = [await ask(client, method, path, two) for _ in range(2)]
    assert first.headers["X-Seed"] != other.headers["X-Seed"]
    assert first.content != other.content
    again = await ask(client, method, path, two, seed=first.headers["X-Seed"])
    assert again.content == first.content


async def test_what_is_not_drawn_tells_no_seed(client, two, png):
    for path in ("/encode", "/reconstruct"):
        assert "X-Seed" not in (await client.post(path, **two)).headers


async def test_fewer_samples_are_the_beginning_of_more(client):
    few, many = [array(await client.get(f"/sample?n={n}&seed=3", headers=NPY)) for n in (3, 9)]
    assert np.array_equal(few, many[:3])


async def test_temperature_zero_is_the_centre_of_the_prior(client):
    cold = array(await client.get("/sample?n=3&temperature=0", headers=NPY))
    centre = array(await client.post("/decode", json={"latents": [[0, 0, 0, 0]]}, headers=NPY))
    assert np.abs(cold.astype(int) - centre).max() <= 1
    cool, hot = [array(await client.get(f"/sample?n=9&temperature={t}&seed=0", headers=NPY)) for t in (0.5, 10)]
    assert 0 < np.ptp(cool, axis=0).mean() < np.ptp(hot, axis=0).mean()


async def test_decoding_what_was_encoded_is_reconstructing(client, two):
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
async def test_columns_shape_the_grid(client, query, size):
    assert Image.open(io.BytesIO((await client.get(f"/sample?{query}")).content)).size == size


async def test_the_score_is_its_terms_and_only_samples_give_the_tighter_bound(client, two):
    plain, tight = [(await client.post(path, **two)).json() for path in ("/score?seed=1", "/score?seed=1&samples=8")]
    assert (len(plain["scores"]), plain["unit"]) == (2, "nats")
    for score in (*plain["scores"], *tight["scores"]):
        assert score["elbo"] == pytest.approx(score["reconstruction"] - score["kl"], abs=1e-4)
        assert score["bits_per_dim"] == pytest.approx(-score["elbo"] / 64 / np.log(2), rel=1e-5)
        assert score["kl"] >= 0
    assert not any("log_likelihood" in score for score in plain["scores"])
    assert all("log_likelihood" in score for score in tight["scores"])


async def test_the_model_tells_what_is_served(client):
    answer = (await client.get("/model")).json()
    assert (answer["image_shape"], answer["latent_shape"], answer["likelihood"]) == ([1, 8, 8], [4], "bernoulli")
    assert answer["model"] == f"digits:{answer['digest'][:12]}"
    assert answer["architecture"]["hidden"] == [24]


async def test_a_person_who_comes_to_the_root_is_led_to_the_documentation(client):
    answer = await client.get("/", follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/docs")


async def test_a_spatial_latent_goes_through_every_endpoint(serve, colour_model):
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


def image(content: bytes, kind: str = "image/png") -> dict:
    return {"content": content, "headers": {"content-type": kind}}


def latents(value: object) -> dict:
    return {"content": json.dumps({"latents": value}), "headers": {"content-type": "application/json"}}


PICTURE = write_png(np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
BAD = {
    "not an image": ("POST", "/encode", image(b"hello"), 422, "image 0: expected PNG"),
    "half a PNG": ("POST", "/reconstruct", image(PICTURE[:50]), 422, "truncated or damaged"),
    "a PNG of 20000 x 20000": ("POST", "/score", image(header_of_png(20_000, 20_000)), 413, "pixels allowed"),
    "an empty body": ("POST", "/encode", image(b""), 400, "the body is empty"),
    "no latents at all": ("POST", "/decode", image(b"", "application/json"), 400, "the body is empty"),
    "a wrong content type": ("POST", "/encode", image(PICTURE, "text/plain"), 415, "expected image/*"),
    "an image for decoding": ("POST", "/decode", image(PICTURE), 415, "expected application/json"),
    "an unacceptable Accept": ("GET", "/sample", {"headers": {"Accept": "text/html"}}, 406, "answers image/png"),
    "n of 0": ("GET", "/sample?n=0", {}, 422, "n: input should be greater than or equal to 1, got 0"),
    "n of 100000": ("GET", "/sample?n=100000", {}, 413, "100000 images exceed the 4096 items"),
    "n of words": ("GET", "/sample?n=many", {}, 422, "n: input should be a valid integer"),
    "n beyond numbers": ("GET", f"/sample?n={'9' * 5000}", {}, 422, "n: "),
    "draws beyond the limit": ("POST", "/encode?samples=5000", image(PICTURE), 413, "with 5000 draws each"),
    "no draws": ("POST", "/score?samples=0", image(PICTURE), 422, "samples: "),
    "a negative seed": ("GET", "/sample?seed=-1", {}, 422, "seed: "),
    "a seed beyond 63 bits": ("GET", f"/sample?seed={2**63}", {}, 422, "seed: "),
    "no columns": ("GET", "/sample?columns=0", {}, 422, "columns: "),
    "a temperature of NaN": ("GET", "/sample?temperature=nan", {}, 422, "temperature: input should be a finite"),
    "a boiling temperature": ("GET", "/sample?temperature=11", {}, 422, "temperature: "),
    "an unknown fit": ("POST", "/encode?fit=stretch", image(PICTURE), 422, "'resize', 'pad', 'crop' or 'exact'"),
    "a misfit": ("POST", "/encode?fit=exact", image(header_of_png(9, 9)), 422, ""),
    "a latent too long": ("POST", "/decode", latents([[0] * 5]), 422, "latents[0]: expected 4 numbers, got 5"),
    "a latent too short": ("POST", "/decode", latents([[0] * 4, []]), 422, "latents[1]: expected 4 numbers, got 0"),
    "no latents": ("POST", "/decode", latents([]), 422, "latents: "),
    "a latent of NaN": ("POST", "/decode", latents([[0, 0, 0, float("nan")]]), 422, "latents[0]: expected finite"),
    "a latent of 1e39": ("POST", "/decode", latents([[0, 0, 0, 1e39]]), 422, "latents[0]: expected finite"),
    "a latent of words": ("POST", "/decode", latents([["0", 0, 0, 0]]), 422, "a valid number"),
    "a latent of truth": ("POST", "/decode", latents([[True, 0, 0, 0]]), 422, "a valid number"),
    "invalid JSON": ("POST", "/decode", image(b'{"latents": [', "application/json"), 400, "not JSON"),
    "a body over the limit": ("POST", "/encode", image(bytes(32 * 2**20 + 1)), 413, "bytes allowed"),
    "an unknown path": ("GET", "/nowhere", {}, 404, "no such path"),
    "a path too far": ("POST", "/encode/", image(PICTURE), 404, "no such path"),
    "a wrong method": ("GET", "/encode", {}, 405, "does not take that method"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_a_caller_does_wrong_is_told_in_a_sentence(client, name):
    method, path, request, status, sentence = BAD[name]
    answer = await client.request(method, path, **request)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert sentence in problem["detail"] == problem["error"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text
