"""Models of the Open Inference Protocol compute what the native endpoints do, from JSON and from binary tensors."""

import base64
import io
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app.codecs.images import write_npy
from app.codecs.png import write_png

pytestmark = pytest.mark.anyio

LENGTH = "Inference-Header-Content-Length"


def numbers(array: np.ndarray, datatype: str) -> bytes:
    """The binary elements of an array."""
    if datatype == "BF16":
        return torch.from_numpy(array).bfloat16().view(torch.int16).numpy().tobytes()
    return array.astype({"FP16": "<f2", "FP32": "<f4", "UINT8": "u1", "FP64": "<f8"}[datatype]).tobytes()


def byte_strings(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


class Answer:
    """A response: its status, its JSON, and its outputs as arrays or byte strings."""

    def __init__(self, response: httpx.Response) -> None:
        self.status, self.headers = response.status_code, response.headers
        length = response.headers.get(LENGTH)
        body = response.content
        self.json = json.loads(body if length is None else body[: int(length)])
        self.outputs: dict[str, Any] = {}
        start = int(length or 0)
        for output in self.json.get("outputs", ()):
            size = output.get("parameters", {}).get("binary_data_size", 0)
            self.outputs[output["name"]] = _elements(output, body[start : start + size])
            start += size
        assert length is None or start == len(body)

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    @property
    def error(self) -> str:
        assert [*self.json] == ["error"]
        assert self.headers["content-type"] == "application/json"
        return self.json["error"]


def _elements(output: dict[str, Any], after: bytes) -> Any:
    if output["datatype"] == "BYTES":
        if "data" in output:
            return [base64.b64decode(text) for text in output["data"]]
        found = []
        while after:
            (length,) = struct.unpack_from("<I", after)
            found, after = [*found, after[4 : 4 + length]], after[4 + length :]
        return found
    if output["datatype"] == "BF16" and "data" not in output:
        bits = np.frombuffer(after, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(output["shape"])
    dtype = {"UINT8": np.uint8, "FP32": np.float32, "FP16": np.float16, "BF16": np.float32}[output["datatype"]]
    flat = np.array(output["data"], dtype) if "data" in output else np.frombuffer(after, dtype)
    return flat.reshape(output["shape"])


def tensor(name: str, datatype: str, shape: Any, data: Any = None, size: int | None = None) -> dict[str, Any]:
    about = {"name": name, "datatype": datatype, "shape": [*shape]}
    return about | ({"data": data} if size is None else {"parameters": {"binary_data_size": size}})


async def infer(
    client: httpx.AsyncClient, name: str, *inputs: dict[str, Any], after: bytes = b"", path: str = "", **fields: Any
) -> Answer:
    """Send a request for a model; `after` are the bytes after the JSON."""
    content = json.dumps({"inputs": inputs, **fields}).encode()
    headers = {LENGTH: str(len(content))} if after else {}
    path = path or f"/v2/models/{name}/infer"
    return Answer(await client.post(path, content=content + after, headers=headers))


async def infer_images(client: httpx.AsyncClient, name: str, images: np.ndarray, **fields: Any) -> Answer:
    """Send pixels [N, 1, H, W] as a binary tensor."""
    shape = (len(images), *images.shape[2:], 1)
    return await infer(
        client, name, tensor("images", "UINT8", shape, size=images.size), after=images.tobytes(), **fields
    )


async def native(client: httpx.AsyncClient, path: str, images: np.ndarray) -> Any:
    answer = await client.post(path, content=write_npy(images[:, 0]))
    assert answer.status_code == 200, answer.text
    return answer.json()


BINARY = {"parameters": {"binary_data_output": True}}


@pytest.fixture(scope="module")
async def posteriors(client, digits) -> tuple[np.ndarray, np.ndarray]:
    """Mean and logvar of three digits by the native endpoint."""
    found = (await native(client, "/encode", digits[:3]))["latents"]
    return np.array([one["mean"] for one in found], np.float32), np.array([one["logvar"] for one in found], np.float32)


@pytest.mark.parametrize("form", ["binary", "flat", "nested", "floats", "halves", "bfloat16", "files", "base64"])
async def test_images_in_every_form_are_encoded_as_by_the_native_endpoint(client, digits, posteriors, form):
    images = digits[:3]
    shape, shaped = (3, 8, 8, 1), images.reshape(3, 8, 8, 1)
    files = [write_png(image) for image in images]
    unit = (shaped / 255).astype(np.float32)
    sent, after = {
        "binary": (tensor("images", "UINT8", shape, size=images.size), images.tobytes()),
        "flat": (tensor("images", "UINT8", shape, images.ravel().tolist()), b""),
        "nested": (tensor("images", "UINT8", (3, 8, 8), images[:, 0].tolist()), b""),
        "floats": (tensor("images", "FP32", shape, size=4 * images.size), numbers(unit, "FP32")),
        "halves": (tensor("images", "FP16", shape, size=2 * images.size), numbers(unit, "FP16")),
        "bfloat16": (tensor("images", "BF16", shape, size=2 * images.size), numbers(unit, "BF16")),
        "files": (tensor("images", "BYTES", (3,), size=len(byte_strings(*files))), byte_strings(*files)),
        "base64": (tensor("images", "BYTES", (3, 1), [base64.b64encode(file).decode() for file in files]), b""),
    }[form]
    answer = await infer(client, "encode", sent, after=after, **BINARY)
    assert answer.status == 200, answer.json
    mean, logvar = posteriors
    near = {"atol": 0.02} if form == "bfloat16" else {"atol": 1e-5}  # of which pixels have 8 bits, but not all levels
    np.testing.assert_allclose(answer["mean"], mean, **near)
    np.testing.assert_allclose(answer["logvar"], logvar, **near)


async def test_a_response_has_json_by_default_and_binary_elements_on_request(client, digits, posteriors):
    in_json = await infer_images(client, "encode", digits[:3])
    assert in_json.headers["content-type"] == "application/json"
    assert LENGTH not in in_json.headers
    outputs = [{"name": "logvar", "parameters": {"binary_data": True}}, {"name": "mean"}]
    mixed = await infer_images(client, "encode", digits[:3], outputs=outputs)
    assert mixed.headers["content-type"] == "application/octet-stream"
    assert [*mixed.outputs] == ["logvar", "mean"]
    overridden = [{"name": "mean", "parameters": {"binary_data": False}}]
    one = await infer_images(client, "encode", digits[:3], outputs=overridden, **BINARY)
    assert [*one.outputs] == ["mean"]
    assert LENGTH not in one.headers
    for answer in (in_json, mixed, one):
        np.testing.assert_allclose(answer["mean"], posteriors[0], atol=1e-6)


async def test_the_id_the_name_and_the_version_come_back(client, digits):
    served = (await client.get("/model")).json()["model"]
    name = served.partition(":")[0]
    sent = tensor("images", "UINT8", (1, 8, 8, 1), size=64)
    for path, expected in (
        ("encode", "encode"),
        ("encode/versions/1", "encode"),
        (f"{name}/encode", f"{name}/encode"),
        (f"{name}/encode/versions/1", f"{name}/encode"),
        (f"{served}/encode", f"{served}/encode"),
    ):
        answer = await infer(client, "", sent, after=bytes(64), path=f"/v2/models/{path}/infer", id="seven")
        assert answer.status == 200, answer.json
        about = {key: answer.json[key] for key in ("model_name", "model_version", "id")}
        assert about == {"model_name": expected, "model_version": "1", "id": "seven"}
        assert answer.headers["x-model"] == served


@pytest.mark.parametrize("path", ["else", "encode/versions/2", "else/encode", "else/encode/versions/1", "a/b/c"])
async def test_another_model_or_version_is_not_found(client, path):
    answer = await infer(client, "", path=f"/v2/models/{path}/infer")
    assert answer.status == 404
    assert answer.error.startswith("no model" if "encode/v" not in f"{path}/" or "else" in path else "no version")


async def test_large_json_is_compressed_by_gzip_alone(client):
    content = json.dumps({"inputs": [], "parameters": {"n": 200}}).encode()
    headers = {"Accept-Encoding": "gzip, deflate, zstd"}
    answer = await client.post("/v2/models/sample/infer", content=content, headers=headers)
    assert answer.headers["content-encoding"] == "gzip"
    assert len(Answer(answer)["images"]) == 200


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BF16", "FP64"])
async def test_latents_in_every_data_type_are_decoded_as_by_the_native_endpoint(client, datatype):
    latents = np.array([[0.5, -1, 2, 0.25], [1, 0, 0, -0.5]], np.float32)  # the same in all types
    expected = await client.post("/decode", json={"latents": latents.tolist()}, headers={"accept": "application/x-npy"})
    after = numbers(latents, datatype)
    answer = await infer(client, "decode", tensor("latents", datatype, (2, 4), size=len(after)), after=after, **BINARY)
    assert answer["images"].shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(answer["images"], np.load(io.BytesIO(expected.content)))


async def test_latents_in_json_are_decoded(client):
    flat = await infer(client, "decode", tensor("latents", "FP32", (2, 4), [0, 1, 2, 3, 0, 0, 0, 0]))
    nested = await infer(client, "decode", tensor("latents", "FP32", (2, 4), [[0, 1, 2, 3], [0, 0, 0, 0]]))
    np.testing.assert_array_equal(flat["images"], nested["images"])


async def test_binary_tensors_are_computed_by_torch_without_a_warning(serve, digits):
    latents = np.zeros((1, 4), np.float32)
    async with serve(runtime="torch") as client:
        answers = [await infer_images(client, name, digits[:1]) for name in ("encode", "reconstruct", "score")]
        sent = tensor("latents", "FP32", (1, 4), size=16)
        answers.append(await infer(client, "decode", sent, after=latents.tobytes()))
    assert [answer.status for answer in answers] == [200] * 4, [answer.json for answer in answers]


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("binary", [False, True])
async def test_images_are_answered_as_files_if_a_format_asks_for_them(client, digits, form, kind, binary):
    parameters = {"format": form, "binary_data_output": binary}
    answer = await infer_images(client, "reconstruct", digits[:2], parameters=parameters)
    assert [Image.open(io.BytesIO(file)).format for file in answer["images"]] == [kind, kind]
    array = await infer_images(client, "reconstruct", digits[:2])
    if form == "png":
        read = [np.asarray(Image.open(io.BytesIO(file)))[..., None] for file in answer["images"]]
        np.testing.assert_array_equal(read, array["images"])


async def test_draws_have_the_seed_of_the_native_endpoint(client, digits):
    native = (await client.post("/encode?samples=2&seed=7", content=write_npy(digits[:2, 0]))).json()["latents"]
    answer = await infer_images(client, "encode", digits[:2], parameters={"samples": 2, "seed": 7})
    assert answer.json["parameters"] == {"seed": 7}
    assert answer["z"].shape == (2, 2, 4)
    np.testing.assert_allclose(answer["z"], [one["z"] for one in native], atol=1e-5)


async def test_samples_are_those_of_the_native_endpoint_by_parameter_or_input(client):
    native = await client.get("/sample?n=3&seed=5&temperature=0.5", headers={"accept": "application/x-npy"})
    expected = np.load(io.BytesIO(native.content))
    parameters = {"seed": 5, "temperature": 0.5}
    by_parameter = await infer(client, "sample", parameters={**parameters, "n": 3})
    by_input = await infer(client, "sample", tensor("n", "INT64", (1,), [3]), parameters=parameters)
    for answer in (by_parameter, by_input):
        np.testing.assert_array_equal(answer["images"], expected)
    assert len((await infer(client, "sample"))["images"]) == 16


async def test_a_seed_that_the_service_chose_is_in_the_parameters(client):
    first = await infer(client, "sample", parameters={"n": 1})
    again = await infer(client, "sample", parameters={"n": 1, "seed": first.json["parameters"]["seed"]})
    np.testing.assert_array_equal(first["images"], again["images"])


async def test_scores_are_those_of_the_native_endpoint(client, digits):
    scores = (await client.post("/score?samples=3&seed=1", content=write_npy(digits[:3, 0]))).json()["scores"]
    answer = await infer_images(client, "score", digits[:3], parameters={"samples": 3, "seed": 1})
    assert {*answer.outputs} == {*scores[0]}
    for name, column in answer.outputs.items():
        np.testing.assert_allclose(column, [score[name] for score in scores], rtol=1e-5)


async def test_latents_are_answered_in_16_bits_on_request(client, digits, posteriors):
    for datatype, tolerance in (("FP16", 1e-3), ("BF16", 1e-2)):
        parameters = {"datatype": datatype, "binary_data_output": True}
        answer = await infer_images(client, "encode", digits[:3], parameters=parameters)
        assert {output["datatype"] for output in answer.json["outputs"]} == {datatype}
        np.testing.assert_allclose(answer["mean"], posteriors[0], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    "parameters",
    [
        {"priority": 1, "sequence_id": 5, "sequence_start": True, "sequence_end": True},
        {"triton_enable_empty_final_response": True, "headers": {"a": "b"}, "content_type": "np"},
        {"timeout": 10_000_000},
        {"timeout": 0},
        {"fit": "pad"},
        None,
    ],
)
async def test_parameters_of_the_protocol_and_of_clients_are_taken(client, digits, parameters):
    assert (await infer_images(client, "encode", digits[:1], parameters=parameters)).status == 200


async def test_a_timeout_that_passes_is_answered(client, digits):
    answer = await infer_images(client, "encode", digits[:1], parameters={"timeout": 1})
    assert answer.status == 504
    assert "deadline" in answer.error


IMAGE = tensor("images", "UINT8", (1, 8, 8, 1), size=64)


@pytest.mark.parametrize(
    ("name", "inputs", "after", "fields", "message"),
    [
        ("encode", [], b"", {}, "inputs: expected one tensor, got none"),
        ("encode", [IMAGE, IMAGE], bytes(128), {}, "inputs: expected one tensor, got 2"),
        ("encode", [{**IMAGE, "name": "x"}], bytes(64), {}, "inputs[0].name: expected images, got 'x'"),
        ("encode", [{**IMAGE, "datatype": "INT8"}], bytes(64), {}, "inputs[0].datatype: expected UINT8, INT64, FP16"),
        ("encode", [{**IMAGE, "datatype": "INT64"}], bytes(64), {}, "expected an array of uint8, or of floats"),
        ("encode", [{**IMAGE, "shape": [64]}], bytes(64), {}, "expected an array of uint8"),
        ("encode", [{**IMAGE, "shape": [2, 8, 8, 1]}], bytes(64), {}, "inputs[0]: expected 128 bytes for UINT8"),
        ("encode", [tensor("images", "BYTES", (1,), size=8)], b"\4\0\0\0text", {}, "images[0]: expected PNG"),
        (
            "encode",
            [IMAGE],
            bytes(64),
            {"parameters": {"scale": 1}},
            "parameters: unknown parameter 'scale'; known are",
        ),
        (
            "encode",
            [IMAGE],
            bytes(64),
            {"parameters": {"samples": "x"}},
            "parameters.samples: expected a valid integer",
        ),
        (
            "encode",
            [IMAGE],
            bytes(64),
            {"parameters": {"datatype": "x" * 1025}},
            "parameters.datatype: expected at most 1024 characters, got 1025",
        ),
        ("encode", [IMAGE], bytes(64), {"parameters": {"seed": -1}}, "parameters.seed: expected a number greater"),
        ("encode", [IMAGE], bytes(64), {"parameters": {"timeout": -1}}, "parameters.timeout: expected microseconds"),
        ("encode", [IMAGE], bytes(64), {"parameters": {"binary_data_output": 1}}, "expected true or false, got 1"),
        ("encode", [IMAGE], bytes(64), {"parameters": {"datatype": "FP8"}}, "parameters.datatype: expected 'FP32'"),
        ("encode", [IMAGE], bytes(64), {"outputs": [{"name": "z"}]}, "outputs[0].name: expected one of mean, logvar"),
        ("encode", [IMAGE], bytes(64), {"outputs": [{"name": "mean"}, {"name": "mean"}]}, "got 'mean' more than once"),
        (
            "encode",
            [IMAGE],
            bytes(64),
            {"outputs": [{"name": "mean", "parameters": {"classification": 3}}]},
            "outputs[0].parameters.classification: classification is not supported",
        ),
        ("decode", [tensor("latents", "UINT8", (1, 4), size=4)], bytes(4), {}, "expected FP32, FP16, BF16 or FP64"),
        (
            "decode",
            [tensor("latents", "FP32", (1, 5), size=20)],
            bytes(20),
            {},
            "inputs[0].shape: expected [N, 4], got [1, 5]",
        ),
        (
            "decode",
            [tensor("latents", "FP32", (2, 1, 4), size=32)],
            bytes(32),
            {},
            "shape: expected [N, 4], got [2, 1, 4]",
        ),
        ("decode", [tensor("latents", "FP32", (1, 4), size=16)], b"\xff" * 16, {}, "latents[0][0]: expected a finite"),
        ("decode", [tensor("latents", "FP16", (1, 4), size=8)], b"\0\x7c" * 4, {}, "expected a finite number"),
        ("decode", [tensor("latents", "FP32", (1, 4), [1e300] * 4)], b"", {}, "expected a finite number"),
        ("sample", [tensor("n", "INT64", (2,), [1, 2])], b"", {}, "inputs[0]: expected one number, INT64 [1]"),
        ("sample", [tensor("n", "FP32", (1,), [1])], b"", {}, "inputs[0]: expected one number, INT64 [1]"),
        ("sample", [tensor("n", "INT64", (1,), [0])], b"", {}, "inputs[0]: expected a number from 1, got 0"),
        ("sample", [], b"", {"parameters": {"n": 0}}, "parameters.n: expected a number greater"),
    ],
)
async def test_what_no_model_can_compute_is_refused_by_a_sentence(client, name, inputs, after, fields, message):
    answer = await infer(client, name, *inputs, after=after, **fields)
    assert answer.status == 422
    assert message in answer.error


async def test_more_items_than_a_request_may_have_are_refused(serve, digits):
    async with serve(max_items=2) as client:
        answers = [
            await infer_images(client, "encode", digits[:3]),
            await infer(client, "encode", tensor("images", "BYTES", (3,), size=12), after=bytes(12)),
            await infer(client, "encode", tensor("images", "BYTES", (3,), ["?"] * 3)),
            await infer(client, "sample", parameters={"n": 3}),
            await infer(client, "sample", tensor("n", "INT64", (1,), [2**62])),
            await infer(client, "decode", tensor("latents", "FP32", (3, 4), size=48), after=bytes(48)),
        ]
    assert [answer.status for answer in answers] == [413] * 6
    assert all("items" in answer.error for answer in answers)


async def test_a_key_is_required_and_its_error_has_the_form_of_the_protocol(serve, digits):
    async with serve(api_key="a-key-of-16-char") as client:
        refused = await infer_images(client, "encode", digits[:1])
        client.headers["Authorization"] = "Bearer a-key-of-16-char"
        accepted = await infer_images(client, "encode", digits[:1])
    assert refused.status == 401
    assert refused.error.startswith("missing API key")
    assert accepted.status == 200


async def test_requests_are_counted_under_the_dialect_whatever_the_path(serve, digits):
    async with serve() as client:
        served = (await client.get("/model")).json()["model"]
        await infer_images(client, "encode", digits[:1])
        await infer_images(client, f"{served}/encode", digits[:1])
        metrics = (await client.get("/metrics")).text
    assert 'vae_requests_total{dialect="kserve",endpoint="/v2/models/encode/infer",status="200"} 2.0' in metrics
