"""Server, models, statistics and repository of the Open Inference Protocol."""

import json
from typing import Any

import httpx
import pytest

from app.api.kserve.models import MODELS
from app.codecs.images import write_npy
from app.main import create_app
from app.settings import Settings
from tests.support.apps import running
from tests.support.diffusers_models import write

pytestmark = pytest.mark.anyio


async def get(client: httpx.AsyncClient, path: str) -> Any:
    response = await client.get(path)
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_server_describes_itself(client):
    for path in ("/v2", "/v2/"):
        about = await get(client, path)
        assert about["name"] == "vae"
        assert {"binary_tensor_data", "statistics", "model_repository"} <= {*about["extensions"]}
    assert await get(client, "/v2/health/live") == {"live": True}
    assert await get(client, "/v2/health/ready") == {"live": True, "ready": True}


async def test_probes_need_no_key_and_metadata_does(serve):
    async with serve(api_key="a-key-of-16-char") as client:
        statuses = {
            path: (await client.get(path)).status_code
            for path in ("/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/encode", "/v2/models/encode/ready")
        }
    assert statuses == {
        "/v2/health/live": 200,
        "/v2/health/ready": 200,
        "/v2": 401,
        "/v2/models/encode": 401,
        "/v2/models/encode/ready": 401,
    }


async def test_a_model_is_described_under_each_of_its_names(client):
    served = (await get(client, "/model"))["model"]
    name = served.partition(":")[0]
    paths = ("encode", "encode/versions/1", f"{name}/encode", f"{served}/encode/versions/1")
    for path in paths:
        about = await get(client, f"/v2/models/{path}")
        assert about.pop("name") == path.partition("/versions")[0]
        assert about == {
            "versions": ["1"],
            "platform": "vae",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}],
            "outputs": [
                {"name": "mean", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "logvar", "datatype": "FP32", "shape": [-1, 4]},
            ],
        }
        assert await get(client, f"/v2/models/{path}/ready") == {"name": path.partition("/versions")[0], "ready": True}


@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats"])
async def test_other_models_are_not_found(client, suffix):
    for name in ("else", "encode/versions/7", "else/encode"):
        response = await client.get(f"/v2/models/{name}{suffix}")
        assert response.status_code == 404
        assert [*response.json()] == ["error"]


async def test_outputs_of_all_models_are_described(client):
    outputs = {name: (await get(client, f"/v2/models/{name}"))["outputs"] for name in MODELS}
    names = {name: [output["name"] for output in found] for name, found in outputs.items()}
    assert names == {
        "encode": ["mean", "logvar"],
        "decode": ["images"],
        "reconstruct": ["images"],
        "sample": ["images"],
        "score": ["elbo", "reconstruction", "kl", "bits_per_dim"],
    }


async def test_a_model_of_many_sizes_has_variable_dimensions(tmp_path, device):
    folder = write(tmp_path / "kl", "kl")
    settings = Settings(model=folder, device=device, threads=1, max_batch_size=1, warm_sizes="64x64")
    async with running(create_app(settings)) as client:
        encode = await get(client, "/v2/models/encode")
        config = await get(client, "/v2/models/encode/config")
    assert encode["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert encode["outputs"][0] == {"name": "mean", "datatype": "FP32", "shape": [-1, 4, -1, -1]}
    assert config["input"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}]


async def test_the_configuration_has_shapes_without_the_number_of_items(client):
    config = await get(client, "/v2/models/decode/config")
    assert config["max_batch_size"] == 4096
    assert config["input"] == [{"name": "latents", "data_type": "TYPE_FP32", "dims": [4]}]
    assert config["output"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": [8, 8, 1]}]
    sample = await get(client, "/v2/models/sample/config")
    assert sample["max_batch_size"] == 0
    assert sample["input"] == [{"name": "n", "data_type": "TYPE_INT64", "dims": [1], "optional": True}]


async def test_statistics_count_requests_of_all_dialects_and_images(serve, digits):
    async with serve() as client:
        await client.post("/encode", content=write_npy(digits[:3, 0]))
        image = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1], "data": digits[0].ravel().tolist()}
        await client.post("/v2/models/encode/infer", json={"inputs": [image]})
        await client.post("/v2/models/encode/infer", json={"inputs": []})
        (stats,) = (await get(client, "/v2/models/encode/stats"))["model_stats"]
        every = (await get(client, "/v2/models/stats"))["model_stats"]
    assert stats["inference_count"] == 4
    assert stats["execution_count"] == 2
    assert stats["inference_stats"]["success"]["count"] == 2
    assert stats["inference_stats"]["success"]["ns"] > 0
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert stats["inference_stats"]["compute_infer"]["count"] == 2
    assert [one["name"] for one in every] == [*MODELS]


@pytest.mark.parametrize("body", ["", "{}", '{"ready": true}'])
async def test_the_repository_lists_the_models(client, body):
    response = await client.post("/v2/repository/index", content=body)
    assert response.status_code == 200
    assert [model["name"] for model in response.json()] == [*MODELS]
    assert {model["state"] for model in response.json()} == {"READY"}


async def test_a_service_that_is_not_ready_says_so(serve):
    async with serve() as client:
        services = client._transport.app.state.services  # its engine is closed, as at the end of the process
        await services.engine.close()
        for path in ("/v2/health/ready", "/v2/models/encode/ready"):
            response = await client.get(path)
            assert response.status_code == 503
            assert [*response.json()] == ["error"]
        index = (await client.post("/v2/repository/index")).json()
        assert {model["state"] for model in index} == {"UNAVAILABLE"}
        assert (await client.post("/v2/repository/index", json={"ready": True})).json() == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/else", 404),
        ("GET", "/v2/models/encode/infer", 405),
        ("GET", "/v2/models/encode/versions/1/infer", 405),
        ("POST", "/v2/models/encode", 405),
        ("POST", "/v2/repository/index?x=1", 422),
    ],
)
async def test_errors_of_paths_and_methods_have_the_form_of_the_protocol(client, method, path, status):
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert [*json.loads(response.content)] == ["error"]


@pytest.mark.parametrize("path", ["encode/infer", "encode/versions/1/infer", "other/infer"])
async def test_inference_by_get_is_refused_with_the_method_that_came(client, path):
    response = await client.get(f"/v2/models/{path}")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json() == {"error": "this path takes POST, got GET"}
    assert (await client.head(f"/v2/models/{path}")).status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("POST", "/v2/repository/models/encode/load", "loading and unloading of models are"),
        ("GET", "/v2/trace/setting", "trace settings are"),
        ("POST", "/v2/models/encode/trace/setting", "trace settings are"),
        ("GET", "/v2/logging", "log settings are"),
        ("GET", "/v2/systemsharedmemory/status", "shared memory is"),
        ("POST", "/v2/cudasharedmemory/region/a/register", "shared memory is"),
    ],
)
async def test_extensions_that_the_service_lacks_are_not_supported(client, method, path, what):
    response = await client.request(method, path)
    assert response.status_code == 404
    assert response.json() == {"error": f"{what} not supported; GET /v2 lists the extensions that are"}
