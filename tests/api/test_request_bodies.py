"""Request bodies: all formats give the same result, and unreadable ones are refused with a sentence."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from app.codecs.images import write_npy
from app.codecs.png import write_png
from tests.support.image_files import header_of_png

pytestmark = pytest.mark.anyio

JSON, NPY = {"content-type": "application/json"}, {"content-type": "application/x-npy"}


@pytest.fixture(scope="module")
def images(digits) -> list[bytes]:
    return [write_png(image) for image in digits[:3]]


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def parts(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{index}.png", image)) for index, image in enumerate(images)]


def multipart_of(*images: bytes, close: bytes = b"--cut--\r\n") -> bytes:
    head = b'--cut\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    return b"".join(head + image + b"\r\n" for image in images) + close


async def refused(client, status: int, sentence: str, path: str = "/encode", **request) -> None:
    response = await client.post(path, **request)
    problem = response.json()
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert sentence in problem["detail"]
    assert problem["error"] == problem["detail"]


async def test_all_body_formats_give_the_same_latents(client, digits, images):
    answers = [
        await client.post("/encode", files=parts(*images)),
        await client.post("/encode", json={"images": [text(image) for image in images]}),
        await client.post("/encode", json={"images": [f"data:image/png;base64,{text(p)}" for p in images]}),
        await client.post("/encode", content=write_npy(digits[:3, 0]), headers=NPY),
        await client.post("/encode", content=write_npy(digits[:3].transpose(0, 2, 3, 1)), headers=NPY),
        await client.post("/encode", content=write_npy(np.asfortranarray(digits[:3, 0])), headers=NPY),
        *[
            await client.post("/encode", content=write_npy((digits[:3, 0] / 255).astype(kind)))
            for kind in ("<f2", "<f4", ">f4", "<f8")
        ],
        *[
            await client.post("/encode", files=[(name, (f"{i}.png", image)) for i, image in enumerate(images)])
            for name in ("image", "images[]", "file", "files")
        ],
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    for index, image in enumerate(images):
        alone = await client.post("/encode", content=image, headers={"content-type": "image/png"})
        mean = answers[0].json()["latents"][index]["mean"]
        np.testing.assert_allclose(alone.json()["latents"][0]["mean"], mean, atol=1e-5)


async def test_an_array_of_two_dimensions_is_a_single_image(client, digits):
    expected = await client.post("/encode", content=write_npy(digits[:1, 0]))
    for array in (digits[0, 0], np.asfortranarray(digits[0, 0]), digits[0, 0] / 255):
        assert (await client.post("/encode", content=write_npy(array))).content == expected.content


@pytest.mark.parametrize("value", [1.5, -0.25, np.nan, np.inf])
async def test_floats_outside_of_the_unit_interval_are_refused(client, value):
    array = np.zeros((3, 8, 8), np.float32)
    array[1, 4, 4] = value
    await refused(client, 422, "images[1]: expected floats in [0, 1], got ", content=write_npy(array))


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
async def test_the_bytes_decide_the_image_format_instead_of_the_image_type(client, images, form):
    stream = io.BytesIO()
    Image.open(io.BytesIO(images[0])).save(stream, form, **({"lossless": True} if form == "WEBP" else {}))
    kinds = ("image/png", "IMAGE/PNG", "image/png; q=1", f"image/{form.lower()}", "image/jpeg")
    answers = [await client.post("/encode", content=stream.getvalue(), headers={"content-type": k}) for k in kinds]
    as_png = await client.post("/encode", content=images[0], headers={"content-type": "image/png"})
    assert {answer.content for answer in answers} == {as_png.content}


@pytest.mark.parametrize("kind", ["Application/JSON", "application/json; charset=utf-8", " application/json ;x=y"])
async def test_parameters_and_case_of_a_content_type_do_not_matter(client, images, kind):
    body = json.dumps({"images": [text(images[0])]})
    assert (await client.post("/encode", content=body, headers={"content-type": kind})).status_code == 200


async def test_the_content_type_of_multipart_is_case_insensitive(client, images):
    for kind in ("multipart/form-data; boundary=cut", 'Multipart/Form-Data; charset=utf-8; Boundary="cut"'):
        answer = await client.post("/encode", content=multipart_of(*images), headers={"content-type": kind})
        assert len(answer.json()["latents"]) == 3


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "", "image", "application/jsonp"])
async def test_a_body_of_another_content_type_and_content_is_unsupported(client, kind):
    came = f"got the Content-Type '{kind}' and a body" if kind else "got no Content-Type and a body"
    for path in ("/encode", "/decode", "/reconstruct", "/score"):
        await refused(client, 415, came, path, content=b"a body", headers={"content-type": kind})


UNTYPED = [
    {},
    {"content-type": ""},
    {"content-type": "application/octet-stream"},
    {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "text/plain; charset=utf-8"},
    {"content-type": "image/png"},
    {"content-type": "application/json"},
    {"content-type": "application/x-npy"},
    {"content-type": "multipart/form-data; boundary=cut"},
]


@pytest.mark.parametrize("headers", UNTYPED)
async def test_the_first_bytes_decide_the_format_instead_of_the_content_type(client, digits, images, headers):
    body = json.dumps({"images": [text(images[0])]})
    expected = (await client.post("/encode", content=images[0], headers={"content-type": "image/png"})).content
    bodies = [images[0], write_npy(digits[:1, 0])]
    bodies += [body.encode(), f" \r\n\t{body}".encode()] if "multipart" not in str(headers) else []
    for form in ("JPEG", "BMP", "GIF", "WEBP"):
        stream = io.BytesIO()
        Image.open(io.BytesIO(images[0])).save(stream, form, **({"lossless": True} if form == "WEBP" else {}))
        bodies.append(stream.getvalue())
    answers = [await client.post("/encode", content=content, headers=headers) for content in bodies]
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert [answer.content == expected for answer in answers].count(False) == 1  # JPEG is lossy


@pytest.mark.parametrize("headers", UNTYPED[:-1])
async def test_latents_are_recognised_with_any_content_type(client, headers):
    latents = np.ones((2, 4), np.float32)
    expected = (await client.post("/decode", json={"latents": latents.tolist()})).content
    for content in (write_npy(latents), json.dumps({"latents": latents.tolist()}).encode()):
        answer = await client.post("/decode", content=content, headers=headers)
        assert (answer.status_code, answer.content) == (200, expected)


async def test_decode_refuses_an_image_with_any_content_type(client, images):
    for headers in UNTYPED:
        await refused(client, 415, "expected application/json or .npy", "/decode", content=images[0], headers=headers)


async def test_an_unsupported_content_type_is_quoted_and_shortened(client):
    await refused(client, 415, r"'a\x01\x7f\xad<b>'", content=b"x", headers={"content-type": b"a\x01\x7f\xad<b>"})
    long = {"content-type": "a" * 1000}
    await refused(client, 415, "'" + "a" * 100 + "'...", content=b"x", headers=long)


FORM = {"content-type": "application/x-www-form-urlencoded"}
HINT = "curl changes a file that it sends with -d; use --data-binary @FILE"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "npy"])
async def test_a_file_that_curl_changed_is_answered_by_the_option_that_sends_it_as_it_is(client, form):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(stream, form) if form != "npy" else stream.write(write_npy(noise[None]))
    changed = stream.getvalue().replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    for path in ("/encode", "/decode"):
        answer = await client.post(path, content=changed, headers=FORM)
        assert answer.status_code in (400, 415, 422)
        assert answer.json()["detail"].endswith(HINT)
        answer = await client.post(path, content=changed, headers={"content-type": "text/plain"})
        assert HINT not in answer.text


async def test_a_line_end_is_searched_in_the_first_bytes_alone(client):
    for size, is_named in ((2**15, False), (2**17, True)):
        answer = await client.post("/encode", content=b"a" * size + b"\n", headers=FORM)
        assert (HINT in answer.text) is is_named


async def test_the_option_is_not_named_for_json_and_other_sizes(client):
    for body in ('{"latents": [[1]]}', "{", "[" * 9):
        answer = await client.post("/decode", content=body, headers=FORM)
        assert answer.status_code in (400, 422)
        assert HINT not in answer.text


@pytest.mark.parametrize("path", ["/encode", "/decode"])
async def test_a_content_type_over_a_kilobyte_is_refused_without_parsing(client, path):
    kind = {"content-type": "multipart/form-data; boundary=cut" + '; a="' * 15_000}
    await refused(client, 415, "at most 1024 characters, got 75033", path, content=b"x", headers=kind)


@pytest.mark.parametrize("encoding", ["", "identity", "Identity "])
async def test_the_content_encoding_identity_is_accepted_and_gzip_refused(client, images, encoding):
    headers = {"content-type": "image/png", "content-encoding": encoding}
    assert (await client.post("/encode", content=images[0], headers=headers)).status_code == 200
    await refused(client, 415, "got 'br'", content=images[0], headers={**headers, "content-encoding": "br"})


@pytest.mark.parametrize("kind", ["image/png", "application/json", "application/x-npy", "multipart/form-data"])
async def test_an_empty_body_is_refused(client, kind):
    await refused(client, 400, "empty", content=b"", headers={"content-type": f"{kind}; boundary=cut"})


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        ("multipart/form-data", multipart_of(b"a"), "its Content-Type has no boundary"),
        ("multipart/form-data; boundary=", multipart_of(b"a"), "its Content-Type has no boundary"),
        ("multipart/form-data; boundary=cut", b"no part", "begins with the boundary"),
        ("multipart/form-data; boundary=cut", b"--cut--\r\n", "no parts"),
        ("multipart/form-data; boundary=cut", b"x--cut--\r\n", "begins with the boundary"),
        (
            "multipart/form-data; boundary=cut",
            b"--cut\r\n\r\nx\r\n--cut--\r\n",
            "part 1: expected a Content-Disposition",
        ),
    ],
)
async def test_a_malformed_multipart_body_is_refused(client, kind, body, sentence):
    await refused(client, 400, sentence, content=body, headers={"content-type": kind})


@pytest.mark.parametrize("kept", [1, 30, 200])
async def test_a_truncated_multipart_body_is_refused(client, images, kept):
    truncated = multipart_of(*images, close=b"")[:-kept]
    kind = {"content-type": "multipart/form-data; boundary=cut"}
    await refused(client, 400, "closing boundary", content=truncated, headers=kind)


async def test_a_part_with_another_name_or_without_a_file_is_refused(client, images):
    others = [*parts(images[0]), ("mask", ("b.png", images[1]))]
    await refused(client, 422, "part 2: unknown name 'mask'; expected every part to be named images", files=others)
    await refused(client, 422, "part 1: expected a file, got text", files=parts(images[0]), data={"images": "no file"})
    await refused(client, 422, "images[1]: expected PNG", files=parts(images[0], b"hunter2"))


async def test_a_parameter_as_a_part_is_answered_by_its_place_in_the_query(client, images):
    sentence = "part 1: unknown name 'samples'; expected every part to be named images"
    for part in (sentence, "a parameter goes into the query, as ?NAME=VALUE"):
        await refused(client, 422, part, files=parts(images[0]), data={"samples": "3"})


async def test_an_empty_file_is_named(client, images):
    await refused(client, 422, "images[1]: expected PNG", files=parts(images[0], b""))
    await refused(client, 422, "got an empty file", files=parts(images[0], b""))


@pytest.mark.parametrize(("kind", "status"), [("image/heic", 422), ("application/octet-stream", 415)])
async def test_heic_is_named_beside_the_formats_that_are_read(client, kind, status):
    heic = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40)
    sentence = "expected PNG, JPEG, WEBP, GIF, TIFF, AVIF or BMP"
    for part in (sentence, "got HEIC, which is not read"):
        await refused(client, status, part, content=heic, headers={"content-type": kind})


async def test_a_part_without_a_file_name_is_accepted_if_it_is_an_image(client, images):
    answer = await client.post("/encode", files=[("images", (None, image)) for image in images])
    assert len(answer.json()["latents"]) == 3


async def test_parts_of_any_size_are_read(client):
    noise = np.random.default_rng(0).integers(0, 256, (3, 700, 700), np.uint8)
    assert (await client.post("/encode", files=parts(write_png(noise), write_png(noise)))).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("{", 400, "not JSON"),
        ("[" * 5000, 400, "not JSON"),
        (b'{"images": ["\xff"]}', 400, "not JSON"),
        ("null", 422, "object"),
        ("{}", 422, "images: missing; expected an array of PNG, "),
        ('{"images": []}', 422, "images: expected at least 1 item, got 0"),
        ('{"images": "aGVsbG8="}', 422, "images: expected a valid"),
        ('{"images": [7]}', 422, "images[0]: expected a valid string, got 7"),
        ('{"images": ["%%%"]}', 422, "images[0]: not base64: it has the character '%'"),
        ('{"images": ["é"]}', 422, "images[0]: not base64: it has the character 'é'"),
        ('{"images": ["", "A"]}', 422, "images[1]: not base64: its length or padding is wrong"),
        ('{"images": ["a"], "n\\u0000\\u202e<b>": 1}', 422, r"unknown field 'n\x00\u202e<b>'; known are images"),
        (f'{{"images": ["a"], "{"x" * 9000}": 1}}', 422, f"unknown field '{'x' * 100}'...; known are images"),
        ('{"images": ["a"], "query": 1}', 422, "unknown field 'query'; known are images"),
        (
            f'{{"images": [{"7" * 4000}]}}',
            422,
            "the body: expected finite numbers, got a number that no float64 can hold at line 1 column 13",
        ),
        ('{"images": [null]}', 422, "images[0]: expected a valid string, got null"),
        ('{"images": [true]}', 422, "images[0]: expected a valid string, got true"),
        ('{"images": [{"hunter2": 2}]}', 422, "images[0]: expected a valid string, got an object"),
        ('{"images": ["data:image/png;base64"]}', 422, "images[0]: expected PNG"),
        ('{"images": ["aGVsbG8="]}', 422, "images[0]: expected PNG"),
    ],
)
async def test_json_without_valid_images_is_refused_with_a_sentence(client, body, status, sentence):
    await refused(client, status, sentence, content=body, headers=JSON)


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": [%s]}' % b",".join([b'""'] * 10_000),
        b'{"images": ["a"], %s}' % b",".join(b'"%d":0' % n for n in range(10_000)),
        b'{"latents": [[%s]]}' % b",".join([b"0"] * 100_000),
        b'{"latents": [%s]}' % b",".join([b"[]"] * 20_000),
        b'{"latents": %s' % (b"[" * 20_000),
        b'{"latents": [[0, 0, 0, 0]], %s}' % b",".join(b'"%d":0' % n for n in range(20_000)),
    ],
)
async def test_json_with_more_values_than_a_request_may_have_is_refused(client, body):
    path = "/encode" if b"images" in body else "/decode"
    await refused(client, 413, "that a request may have", path, content=body, headers=JSON)


@pytest.mark.parametrize("body", [{"images": ["hunter2" * 9000]}, {"images": ["aaaa"], "a": "hunter2"}, "h" * 9000])
async def test_an_error_repeats_little_of_the_input(client, body):
    for path in ("/encode", "/decode"):
        answer = await client.post(path, json=body)
        assert answer.status_code == 422
        assert b"hunter2" not in answer.content
        assert len(answer.content) < 1000


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 8, 8), np.int16),
        np.zeros(8, np.uint8),
        np.zeros((2, 8, 8, 2), np.uint8),
        np.zeros((0, 8, 8), np.uint8),
        np.zeros((2, 0, 8), np.uint8),
        np.zeros((1, 1, 8, 8, 1), np.uint8),
    ],
)
async def test_an_array_that_is_not_images_is_refused(client, array):
    await refused(
        client, 422, "expected an array of uint8, or of floats in [0, 1]", content=write_npy(array), headers=NPY
    )


async def test_an_array_of_records_is_refused(client):
    named = np.zeros((2, 8, 8), [("hunter2", np.uint8)])
    await refused(client, 422, "got another data type [2, 8, 8]", content=write_npy(named), headers=NPY)


async def test_a_damaged_array_is_refused(client):
    await refused(client, 400, ".npy", content=b"\x93NUMPY\x01\x00garbage", headers=NPY)


async def test_more_items_than_allowed_are_refused_in_every_body_format(serve, images):
    async with serve(max_items=2) as client:
        many = [images[0]] * 3
        for request in (
            {"files": parts(*many)},
            {"json": {"images": [text(image) for image in many]}},
            {"content": write_npy(np.zeros((3, 8, 8), np.uint8)), "headers": NPY},
        ):
            await refused(client, 413, "2", **request)
        latents = np.zeros((3, 4), np.float32)
        await refused(client, 413, "2", "/decode", json={"latents": latents.tolist()})
        await refused(client, 413, "2", "/decode", content=write_npy(latents), headers=NPY)
        assert (await client.post("/encode", files=parts(*many[:2]))).status_code == 200


async def test_images_with_too_many_pixels_together_are_refused(client):
    await refused(client, 413, "images[0] to images[1] have", files=parts(*[header_of_png(4096, 4096)] * 2))
    huge = header_of_png(4096, 4096) + bytes(2**16)
    await refused(client, 413, "pixels", files=parts(*[huge] * 17))
    await refused(client, 422, "truncated", files=parts(*[huge] * 16))


async def test_more_pixels_than_allowed_are_refused_in_every_body_format(serve, images):
    async with serve(max_image_pixels=63) as client:
        await refused(client, 413, "pixels", files=parts(images[0]))
        await refused(client, 413, "pixels", content=write_npy(np.zeros((1, 8, 8), np.uint8)), headers=NPY)
