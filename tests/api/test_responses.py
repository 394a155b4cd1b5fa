"""Content negotiation (RFC 9110), and the same pixels in every media type."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.api.content_negotiation import negotiate
from app.api.responses import IMAGES, JSON, NPY, NUMBERS, PNG
from app.codecs.grid import bands
from app.codecs.images import write_npy
from app.codecs.media_types import JPEG, WEBP
from app.codecs.png import write_png

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ((), PNG),
        (("",), PNG),
        (("*/*",), PNG),
        (("image/*",), PNG),
        (("image/png",), PNG),
        (("IMAGE/PNG",), PNG),
        (("application/json",), JSON),
        (("application/json; charset=utf-8",), JSON),
        (("application/x-npy",), NPY),
        (("application/*",), JSON),
        (("image/webp, */*;q=0.1",), PNG),
        (("image/png;q=0.4, application/json;q=0.5",), JSON),
        (("image/png;q=0.5, application/json;q=0.5",), PNG),
        (("image/png;q=0.001, application/json;q=0",), PNG),
        (("image/png;q=0, */*",), JSON),
        (("image/png;q=0, application/json;q=0, */*;q=0.1",), NPY),
        (("text/html", "application/json"), JSON),
        (("text/html, application/xhtml+xml, image/png;q=0.9, */*;q=0.8",), PNG),
        ((", application/json ,",), JSON),
        (("image/jpeg",), JPEG),
        (("image/webp;q=0.5, image/jpeg;q=0.4",), WEBP),
        (("image/avif,image/webp,image/*,*/*;q=0.8",), PNG),
        (("image/webp, image/png;q=0",), WEBP),
        (("image/webp;q=0.5, ",), WEBP),
        (("image/*, , image/webp",), PNG),
        (("application/problem+json",), PNG),
        (("Application/Problem+JSON; charset=utf-8",), PNG),
    ],
)
def test_the_preferred_offered_media_type_is_negotiated(accept, media):
    assert negotiate(IMAGES, ",".join(accept).encode()) == media


@pytest.mark.parametrize(
    "accept", ["text/html", "image/jpeg", "image/png;q=0", "*/*;q=0", "garbage", "image/", "/png", ";", ",", "a/b;c"]
)
def test_no_media_type_is_negotiated_if_none_is_accepted(accept):
    assert not negotiate(NUMBERS, accept.encode())


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*'*/,;= ."q01-x', "image", "png", "application", "json", "nan"]), max_size=30))
def test_any_accept_header_gives_an_offered_media_type_or_none(pieces):
    assert negotiate(IMAGES, "".join(pieces).encode()) in (*IMAGES, "")


def pixels_of_png(content: bytes) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("columns", [None, 1, 3, 100])
async def test_all_media_types_have_the_same_pixels(client, columns):
    params = {"n": 5, "seed": 3, **({"columns": columns} if columns else {})}
    png, text, npy = [
        await client.get("/sample", params=params, headers={"Accept": media}) for media in (PNG, JSON, NPY)
    ]
    assert [answer.headers["content-type"] for answer in (png, text, npy)] == [PNG, JSON, NPY]
    array = np.load(io.BytesIO(npy.content), allow_pickle=False)
    pixels = array.transpose(0, 3, 1, 2)
    assert (array.dtype, array.shape) == (np.uint8, (5, 8, 8, 1))
    assert np.ptp(array) > 0
    singles = [pixels_of_png(base64.b64decode(image, validate=True)) for image in text.json()["images"]]
    assert np.array_equal(singles, pixels)
    assert np.array_equal(pixels_of_png(png.content), np.concatenate([*bands(pixels, columns)[1]], axis=1))


async def test_a_single_image_is_not_padded_to_a_grid(client):
    answer = await client.get("/sample?n=1&columns=4")
    assert pixels_of_png(answer.content).shape == (1, 8, 8)


async def test_latents_are_the_same_in_an_array_and_in_json(client, digits):
    params, files = {"samples": 2, "seed": 5}, [("images", ("a", write_png(image))) for image in digits[:3]]
    text, npy = [
        await client.post("/encode", params=params, files=files, headers={"Accept": media}) for media in NUMBERS
    ]
    table = np.load(io.BytesIO(npy.content), allow_pickle=False)
    latents = text.json()["latents"]
    assert (table.dtype, table.shape) == (np.float32, (2 + 2, 3, 4))
    assert np.array_equal(table[0], np.float32([latent["mean"] for latent in latents]))
    assert np.array_equal(table[1], np.float32([latent["logvar"] for latent in latents]))
    assert np.array_equal(table[2:], np.float32([latent["z"] for latent in latents]).swapaxes(0, 1))


async def test_an_unacceptable_accept_header_is_refused_before_the_body_is_read(client):
    for method, path in (("GET", "/sample"), ("POST", "/encode"), ("POST", "/score"), ("GET", "/model")):
        answer = await client.request(method, path, content=b"garbage", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.json()["title"]) == (406, "Not acceptable")
        assert "Accept asks for none of them" in answer.json()["detail"]


async def test_several_accept_headers_count_as_one(client):
    answer = await client.get("/sample?n=1", headers=[("Accept", "text/html"), ("Accept", "application/json")])
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("media", [JPEG, WEBP])
@pytest.mark.parametrize("path", ["/sample?n=6&seed=1&columns=3", "/decode?columns=3", "/reconstruct?columns=3"])
async def test_images_are_jpeg_or_webp_on_request(client, digits, media, path):
    array = digits[:6, 0] if path.startswith("/reconstruct") else np.zeros((6, 4), np.float32)
    request = {"method": "GET"} if path.startswith("/sample") else {"method": "POST", "content": write_npy(array)}
    answers = [
        await client.request(url=f"{path}&quality={quality}", headers={"Accept": media}, **request)
        for quality in (10, 100)
    ]
    for answer in answers:
        assert answer.headers["content-type"] == media
        assert Image.open(io.BytesIO(answer.content)).size == (24, 16)
    assert len(answers[0].content) < len(answers[1].content)


@pytest.mark.parametrize("quality", [0, 101, "high"])
async def test_a_quality_out_of_range_is_refused(client, quality):
    answer = await client.get(f"/sample?quality={quality}")
    assert answer.status_code == 422
    assert "query" not in answer.json()["detail"]
    assert answer.json()["detail"].startswith("quality: expected ")
