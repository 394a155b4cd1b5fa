"""JSON schemas: responses match them, requests are validated by them, and responses are valid requests."""

import math

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from app.api.responses import latents_json, scores_json
from app.api.schemas import Health, History, Images, Latents, LatentsIn, Model, Scores
from app.api.scoring import bounds_columns
from app.codecs.png import write_png
from app.http.problems import Problem
from model.config import VAEConfig
from model.elbo import ELBO, Bounds
from model.formats.native import model_of
from tests.support.models import build

pytestmark = pytest.mark.anyio

examples = settings(max_examples=60)
finite = st.floats(-1e6, 1e6, width=32)


@pytest.fixture(scope="module", params=["digits", "colour"])
async def served(request, serve, digits_model, colour_model):
    shape, model = {"digits": ((8, 8), digits_model), "colour": ((13, 9, 3), colour_model)}[request.param]
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    chw = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    async with serve(model=model) as client:
        yield client, {"files": [("images", (str(n), write_png(image))) for n, image in enumerate(chw)]}


@pytest.mark.parametrize(
    ("schema", "method", "path"),
    [
        (Latents, "POST", "/encode"),
        (Latents, "POST", "/encode?samples=2"),
        (Scores, "POST", "/score"),
        (Scores, "POST", "/score?samples=2"),
        (Images, "POST", "/reconstruct"),
        (Images, "GET", "/sample?n=3"),
        (Model, "GET", "/model"),
        (History, "GET", "/model/history"),
        (Health, "GET", "/livez"),
        (Health, "GET", "/readyz"),
        (Problem, "GET", "/nowhere"),
        (Problem, "GET", "/sample?n=0"),
    ],
)
async def test_every_json_response_matches_its_schema(served, schema, method, path):
    client, two = served
    answer = await client.request(
        method, path, headers={"Accept": "application/json"}, **two if method == "POST" else {}
    )
    assert answer.headers["content-type"] == ("application/problem+json" if schema is Problem else "application/json")
    parsed = schema.model_validate_json(answer.content, strict=True)
    assert orjson.loads(answer.content) == parsed.model_dump(exclude_none=True)


@pytest.mark.parametrize("query", ["", "?samples=2"])
async def test_responses_of_encode_and_decode_are_valid_requests_to_each_other(served, query):
    client, two = served
    encoded = await client.post(f"/encode{query}", **two)
    kind = {"Content-Type": "application/json", "Accept": "application/json"}
    decoded = await client.post("/decode", content=encoded.content, headers=kind)
    reconstructed = await client.post("/reconstruct", headers={"Accept": "application/json"}, **two)
    assert decoded.status_code == 200
    again = await client.post("/encode", content=decoded.content, headers=kind)
    assert len(again.json()["latents"]) == len(reconstructed.json()["images"]) == 2


shapes = st.sampled_from([(4,), (2, 4, 3), (1,), (1, 1, 1)])


@examples
@given(st.data(), shapes, st.integers(1, 3), st.integers(0, 3), st.sampled_from("CF"))
def test_json_keeps_every_bit_of_latents(data, shape, count, draws, order):
    table = data.draw(arrays(np.float32, (2 + draws, count, *shape), elements=finite))
    content = latents_json(np.asarray(table, order=order), "name:digest")
    answer = Latents.model_validate_json(content)
    assert (answer.shape, answer.model, len(answer.latents)) == (list(shape), "name:digest", count)
    means = [latent.mean for latent in LatentsIn.model_validate_json(content).latents]
    assert np.array_equal(np.float32(means), table[0])
    assert np.array_equal(np.float32([latent.logvar for latent in answer.latents]), table[1])
    if draws:
        z = np.float32([latent.z for latent in answer.latents])
        assert np.array_equal(z, table[2:].swapaxes(0, 1))
    else:
        assert b'"z"' not in content


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic", "gaussian"])
def test_bits_per_dimension_refer_to_the_masses_of_eight_bit_levels(likelihood):
    config = VAEConfig(image_shape=(1, 4, 4), latent_shape=(2,), hidden=(3,), likelihood=likelihood)
    total, kl = torch.tensor([-32.0, 8.0]), torch.tensor([3.0, 4.0])
    bounds = Bounds(ELBO(total, total + kl, kl), total + 1, total - 80, total - 79)
    for with_likelihood in (True, False):
        answer = Scores.model_validate_json(
            scores_json(bounds_columns(bounds, model_of(build(config)).spec, with_likelihood=with_likelihood))
        )
        for score, elbo in zip(answer.scores, total.tolist(), strict=True):
            assert score.elbo == elbo == score.reconstruction - score.kl
            assert score.bits_per_dim == pytest.approx((80 - elbo) / 16 / math.log(2))
            assert score.log_likelihood == (elbo + 1 if with_likelihood else None)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"latents": []},
        {"latents": None},
        {"latents": [None]},
        {"latents": [1]},
        {"latents": [["1"]]},
        {"latents": [[True]]},
        {"latents": [[None]]},
        {"latents": [[[1]]]},
        {"latents": [{"mean": [1]}]},
        {"latents": [{"mean": [1], "logvar": ["x"]}]},
        {"latents": [[1]], "latent": [[1]]},
        {"latents": [{"mean": [1], "logvar": [1], "std": [1]}]},
    ],
)
def test_invalid_latents_are_refused(value):
    with pytest.raises(ValidationError):
        LatentsIn.model_validate_json(orjson.dumps(value))


@examples
@given(st.recursive(st.none() | st.booleans() | finite | st.text(max_size=3), lambda deep: st.lists(deep, max_size=3)))
def test_latents_consist_of_numbers_or_are_text(value):
    def numbers(item: object, depth: int) -> bool:
        return (
            type(item) is float if depth == 0 else isinstance(item, list) and all(numbers(i, depth - 1) for i in item)
        )

    try:
        LatentsIn.model_validate_json(orjson.dumps({"latents": [value]}))
    except ValidationError:
        assert not numbers(value, 1)
        assert value == [] or not numbers(value, 3)
    else:
        assert isinstance(value, str) or numbers(value, 1) or numbers(value, 3)


@pytest.mark.parametrize("wrong", ["true", "null", "[[[[]]]]", "{}"])
@pytest.mark.parametrize("frame", ["[%s]", "[[%s]]", "[[[[%s]]]]", '[{"mean": [%s], "logvar": [0]}]'])
def test_only_the_first_of_many_invalid_latents_is_reported(frame, wrong):
    with pytest.raises(ValidationError) as refused:
        LatentsIn.model_validate_json(f'{{"latents": {frame % ",".join([wrong] * 1000)}}}')
    assert refused.value.error_count() <= 2  # both fields of one posterior may be


@pytest.mark.parametrize("wrong", ["1", "null", "[]"])
def test_only_the_first_of_many_invalid_images_is_reported(wrong):
    with pytest.raises(ValidationError) as refused:
        Images.model_validate_json(f'{{"images": [{",".join([wrong] * 1000)}]}}')
    assert refused.value.error_count() == 1
