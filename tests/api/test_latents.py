"""Latents in request bodies: responses of /encode, shapes, models and arrays."""

import base64
import io

import numpy as np
import pytest

from app.codecs.images import write_npy

pytestmark = pytest.mark.anyio

LATENT = [0.5, -1, 0, 2]


@pytest.fixture(scope="module")
async def encoded(client, digits) -> dict:
    npy = {"content-type": "application/x-npy"}
    answer = await client.post("/encode?samples=2&seed=1", content=write_npy(digits[:3, 0]), headers=npy)
    return answer.json()


async def decode(client, body: dict):
    return await client.post("/decode", json=body)


async def refused(client, body: dict, sentence: str) -> None:
    answer = await decode(client, body)
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]


async def test_a_response_of_encode_is_decoded_at_its_means(client, encoded):
    means = {"latents": [latent["mean"] for latent in encoded["latents"]]}
    answers = [await decode(client, body) for body in (encoded, means, {**means, "shape": [4]}, {**means, "z": None})]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 422]
    assert len({answer.content for answer in answers[:3]}) == 1


async def test_latents_of_another_model_are_refused_with_the_names_of_both(client, encoded):
    served = encoded["model"]
    other = f"{served.partition(':')[0]}:000000000000"
    sentence = f"model: expected latents of '{served}', which is served, got those of '{other}'"
    await refused(client, {**encoded, "model": other}, sentence)
    await refused(client, {"latents": [LATENT], "model": "\r\n" * 9000}, r"got those of '" + r"\r\n" * 50 + "'...")


async def test_latents_of_the_same_weights_under_another_name_are_decoded(client, encoded):
    digest = encoded["model"].rpartition(":")[2]
    for model in (f"another name:{digest}", None):
        assert (await decode(client, {**encoded, "model": model})).status_code == 200


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ([5], "[5]"),
        ([], "[]"),
        ([4, 1], "[4, 1]"),
        ([1] * 999, "[1, 1, 1, 1, 1, 1, 1, 1, ...]"),
        ([10**18], "[1000000000000000000]"),
    ],
)
async def test_latents_with_the_shape_of_another_model_are_refused(client, shape, sentence):
    await refused(client, {"latents": [LATENT], "shape": shape}, "shape: expected [4], the shape of one latent of ")
    await refused(client, {"latents": [LATENT], "shape": shape}, f", got {sentence}")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("mean", [1, 2, 3], "latents[1].mean: expected 4 numbers, got 3"),
        ("logvar", [1, 2, 3], "latents[1].logvar: expected 4 numbers, got 3"),
        ("logvar", [[[1, 2, 3, 4]]], "latents[1].logvar: expected 4 numbers, got 1 x 1 x 4"),
        ("logvar", [[[1], [2, 3]]], "latents[1].logvar: expected lists of equal length"),
        ("z", [LATENT, LATENT[:2]], "latents[1].z[1]: expected 4 numbers, got 2"),
        ("z", [[]], "latents[1].z[0]: expected 4 numbers, got 0"),
        ("z", LATENT, "latents[1].z[0]: expected a valid array, got 0.5"),
        ("lgvar", LATENT, "latents[1]: unknown field 'lgvar'; known are mean, logvar, z"),
    ],
)
async def test_every_array_of_a_posterior_must_have_the_shape_of_a_latent(client, field, value, sentence):
    posterior = {"mean": LATENT, "logvar": LATENT, field: value}
    await refused(client, {"latents": [LATENT, posterior]}, sentence)


async def test_a_posterior_may_have_no_draws(client):
    posteriors = [{"mean": LATENT, "logvar": LATENT, "z": z} for z in (None, [], [LATENT])]
    assert (await decode(client, {"latents": posteriors})).status_code == 200


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
async def test_arrays_of_any_byte_order_and_layout_decode_to_the_same_image(client, dtype, order):
    latents = np.asarray(np.arange(12).reshape(3, 4) / 8, dtype, order=order)
    answer = await client.post("/decode", content=write_npy(latents))
    assert answer.content == (await decode(client, {"latents": latents.tolist()})).content


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((2, 4), np.float16), "got float16 [2, 4]"),
        (np.zeros((2, 4), ">i4"), "got int32 [2, 4]"),
        (np.zeros((2, 5), np.float32), "got float32 [2, 5]"),
        (np.zeros((0, 4), np.float32), "got float32 [0, 4]"),
        (np.zeros((0, 2, 4), np.float32), "got float32 [0, 2, 4]"),
        (np.zeros((1, 2, 4), np.float32), "or a response of /encode, [2 + L, N, 4], got float32 [1, 2, 4]"),
        (np.zeros(4, np.float32), "got float32 [4]"),
        (np.zeros((), np.float32), "got float32 []"),
        (np.array([[0, 0, 0, 0], [0, 0, np.nan, 0]]), "latents[1][2]: expected a finite number between -1000000 and "),
        (np.array([[0, 0, 0, 0], [0, 0, np.inf, 0]]), "1000000, got inf"),
    ],
)
async def test_an_array_of_another_type_or_shape_is_refused(client, array, sentence):
    answer = await client.post("/decode", content=write_npy(array))
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize("rows", [2, 3, 5])
async def test_a_response_of_encode_as_an_array_is_decoded_at_its_means(client, rows):
    table = np.random.default_rng(0).normal(size=(rows, 3, 4)).astype(np.float32)
    answers = [await client.post("/decode", content=write_npy(array)) for array in (table, table[0])]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content


async def test_latents_in_base64_are_the_float32_numbers_of_the_encoder(client, digits):
    body = write_npy(digits[:3, 0])
    table = np.load(
        io.BytesIO((await client.post("/encode", content=body, headers={"Accept": "application/x-npy"})).content)
    )
    answer = await client.post("/encode?encoding=base64", content=body)
    content = answer.json()
    assert (content["encoding"], content["shape"]) == ("base64", [4])
    for field, rows in zip(("mean", "logvar"), table, strict=True):
        texts = [latent[field] for latent in content["latents"]]
        np.testing.assert_array_equal([np.frombuffer(base64.b64decode(text), "<f4") for text in texts], rows)
    as_it_is = await client.post("/decode", content=answer.content)
    assert as_it_is.status_code == 200
    assert as_it_is.content == (await client.post("/decode", content=write_npy(table))).content


async def test_draws_in_base64_are_accepted_by_decode(client, digits):
    answer = await client.post("/encode?encoding=base64&samples=2&seed=3", content=write_npy(digits[:2, 0]))
    numbers = await client.post("/encode?samples=2&seed=3", content=write_npy(digits[:2, 0]))
    for text, latent in zip(answer.json()["latents"], numbers.json()["latents"], strict=True):
        assert [list(np.frombuffer(base64.b64decode(z), "<f4")) for z in text["z"]] == [
            list(np.float32(z)) for z in latent["z"]
        ]
    assert (await client.post("/decode", content=answer.content)).status_code == 200


async def test_text_and_numbers_may_be_mixed(client):
    text = base64.b64encode(np.float32(LATENT).tobytes()).decode()
    urlsafe = base64.urlsafe_b64encode(np.float32(LATENT).tobytes()).decode().rstrip("=")
    answers = [
        await decode(client, {"latents": pair}) for pair in ([LATENT, LATENT], [text, LATENT], [LATENT, urlsafe])
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize(
    ("latents", "sentence"),
    [
        (["AAAA"], "latents[0]: expected 16 bytes of 4 float32 numbers, got 3"),
        ([{"mean": "AAAA", "logvar": None}], "latents[0].mean: expected 16 bytes of 4 float32 numbers, got 3"),
        ([LATENT, "??"], "latents[1]: not base64: it has the character '?'"),
        (
            [base64.b64encode(np.float32([0, 0, np.nan, 0]).tobytes()).decode()],
            "latents[0][2]: expected a finite number",
        ),
        ([{"mean": LATENT, "logvar": LATENT, "z": ["AAAA"]}], "latents[0].z[0]: expected 16 bytes of 4 float32"),
        ([{"mean": LATENT, "logvar": LATENT, "z": "AAAA"}], "latents[0].z: expected a valid array, got 'AAAA'"),
    ],
)
async def test_text_that_is_not_a_latent_is_refused(client, latents, sentence):
    await refused(client, {"latents": latents}, sentence)
