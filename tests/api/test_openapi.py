"""OpenAPI document: it is valid, its examples work, and all responses are documented."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from app.http.problems import Problem
from app.main import create_app
from app.settings import Settings
from model.config import VAEConfig
from tests.support.apps import running
from tests.support.in_thread_server import on_a_socket
from tests.support.models import write

ENDPOINTS = {
    "/encode": "post",
    "/decode": "post",
    "/reconstruct": "post",
    "/sample": "get",
    "/interpolate": "post",
    "/score": "post",
}
DIFFUSERS = {"/diffusers/decode": "post", "/diffusers/encode": "post"}
OPERATIONS = {
    **ENDPOINTS,
    **DIFFUSERS,
    "/model": "get",
    "/model/history": "get",
    "/livez": "get",
    "/readyz": "get",
    "/metrics": "get",
}
KSERVE = {
    "/v2/health/live": "get",
    "/v2/health/ready": "get",
    "/v2": "get",
    "/v2/repository/index": "post",
    "/v2/models/stats": "get",
    **{f"/v2/models/{name}/infer": "post" for name in ("encode", "decode", "reconstruct", "sample", "score")},
    **{f"/v2/models/{{name}}{suffix}": "get" for suffix in ("", "/ready", "/config", "/stats")},
}


def no_server_error_except_timeout(context: Any, response: Any, case: Any) -> None:
    """Allow a 504 for a request with X-Request-Timeout, and no other server error."""
    if response.status_code != 504 or "X-Request-Timeout" not in case.headers:
        not_a_server_error(context, response, case)


CONFORMANCE = [
    no_server_error_except_timeout,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def make(digits_model, device):
    def app(**options: Any) -> FastAPI:
        return create_app(Settings(**{"model": digits_model, "device": device, "threads": 1, **options}))

    return app


@pytest.fixture(scope="module")
def document(make) -> dict[str, Any]:
    return make().openapi()


@pytest.fixture(scope="module")
def api(make) -> Iterator[Any]:
    """The document as a service has it, and behind it the service."""
    app = make()
    with on_a_socket(app) as url:
        while not app.state.services.engine.ready:
            time.sleep(0.002)
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def values(node: Any, name: str) -> Iterator[Any]:
    """All that stands under a name anywhere in a document."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == name)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from values(child, name)


def resolved(document: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """A response, or the one of the components that it refers to."""
    if "$ref" in response:
        return document["components"]["responses"][response["$ref"].removeprefix("#/components/responses/")]
    return response


def example_of(schema: dict[str, Any]) -> dict[str, Any]:
    """What the examples of a schema's properties make together."""
    return {name: about["examples"][0] for name, about in schema["properties"].items() if "examples" in about}


def test_the_document_lists_exactly_the_operations(document):
    found = [(path, method) for path, methods in document["paths"].items() for method in methods]
    assert sorted(found) == sorted([*OPERATIONS.items(), ("/sample", "post"), *KSERVE.items()])


def test_the_document_is_valid_openapi_with_a_schema_in_every_place(api, document):
    api.validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_reference_resolves_and_every_schema_is_used(document):
    references = set(values(document, "$ref"))
    defined = {f"#/components/{kind}/{name}" for kind, named in document["components"].items() for name in named}
    assert references <= defined
    assert {"Latents", "LatentsIn", "Images", "Scores", "Model", "Problem"} <= {
        ref.rpartition("/")[2] for ref in references
    }


POSITIVE = [
    (*operation, GenerationMode.POSITIVE) for operation in (*OPERATIONS.items(), ("/sample", "post"), *KSERVE.items())
]
NEGATIVE = [
    (*operation, GenerationMode.NEGATIVE) for operation in (*ENDPOINTS.items(), *DIFFUSERS.items(), ("/sample", "post"))
]


@pytest.mark.parametrize(("path", "method", "mode"), POSITIVE + NEGATIVE)
def test_every_response_is_one_of_the_documented_ones(api, path, method, mode):
    operation = api[path][method]

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def conforms(case) -> None:
        case.call_and_validate(checks=CONFORMANCE)

    conforms()


@pytest.mark.anyio
@pytest.mark.parametrize("model", ["digits", "colour"])
async def test_the_examples_of_the_document_work_when_they_are_sent(make, digits_model, colour_model, model):
    app = make(model={"digits": digits_model, "colour": colour_model}[model])
    async with running(app) as client:
        for path, methods in app.openapi()["paths"].items():
            for media, body in methods.get("post", {}).get("requestBody", {}).get("content", {}).items():
                if media == "application/json" and "example" in body:
                    answer = await client.post(path, json=body["example"])
                    assert answer.status_code == 200, (path, answer.text)


@pytest.mark.anyio
async def test_every_documented_media_type_can_be_requested(client, document):
    for path, method in ((path, method) for path, method in OPERATIONS.items() if path not in DIFFUSERS):
        operation = document["paths"][path][method]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        for media in operation["responses"]["200"]["content"]:
            answer = await client.request(method, path, json=body, headers={"Accept": media})
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, media)


def test_the_example_of_a_problem_has_its_status(document):
    paths = [methods for path, methods in document["paths"].items() if path not in KSERVE]
    for responses in (method["responses"] for path in paths for method in path.values()):
        for status, response in responses.items():
            example = resolved(document, response).get("content", {}).get("application/problem+json", {}).get("example")
            assert status == "200" or Problem(**example).status == int(status)


@pytest.mark.anyio
@pytest.mark.parametrize("path", [*ENDPOINTS, "/model", "/model/history"])
async def test_refusals_by_admission_control_are_documented(make, path):
    app, seen, key = make(api_key="key", max_body_bytes=10), set(), {"Authorization": "Bearer key"}
    announced = app.openapi()["paths"][path][OPERATIONS[path]]["responses"]
    async with running(app) as client:
        for draining in (False, True):
            if draining:
                app.state.services.state.drain()
            for headers in ({}, key, {**key, "Accept": "text/html"}, {**key, "Content-Length": "11"}):
                seen.add((await client.request(OPERATIONS[path], path, headers=headers)).status_code)
    assert {401, 406, 413, 503} <= seen <= {int(status) for status in announced}
    assert path.startswith("/model") or {"429", "504"} <= announced.keys()


def test_only_endpoints_that_require_a_key_document_it(make, document):
    assert not list(values(document, "security"))
    locked = make(api_key="key").openapi()
    assert all(
        "security" in locked["paths"][path][OPERATIONS[path]] for path in (*ENDPOINTS, "/model", "/model/history")
    )
    assert not any("security" in locked["paths"][path]["get"] for path in ("/livez", "/readyz", "/metrics"))


@pytest.mark.anyio
@pytest.mark.parametrize("model", ["digits", "colour"])
async def test_every_example_is_valid_for_the_served_model(make, digits_model, colour_model, model):
    app = make(model={"digits": digits_model, "colour": colour_model}[model])
    document = json.loads(json.dumps(app.openapi()))
    schemas = document["components"]["schemas"]
    examples = {name: example_of(schema) for name, schema in schemas.items()}
    for name, schema in schemas.items():
        for field, example in examples[name].items():
            place = f"#/components/schemas/{name}/properties/{field}"
            instance_schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": place, **document}
            assert jsonschema_rs.is_valid(instance_schema, example), place
            assert schema["properties"][field]["examples"] == [example]
    posterior, latents, score = examples["Posterior"], examples["LatentsIn"], examples["Score"]
    assert score["elbo"] == pytest.approx(score["reconstruction"] - score["kl"])
    assert np.shape(posterior["mean"]) == np.shape(posterior["z"])[1:] == tuple(latents["shape"])
    async with running(app) as client:
        sentence = (await client.get("/model")).json()
        assert sentence | examples["Model"] | {"device": sentence["device"], "runtime": sentence["runtime"]} == sentence
        for body in (latents, latents | {"latents": [posterior]}):
            assert (await client.post("/decode", json=body)).status_code == 200, body
        assert (await client.post("/encode?fit=exact", json=examples["Images"])).status_code == 200


def test_the_examples_have_no_latents_of_a_large_model(make, tmp_path):
    config = VAEConfig(image_shape=(1, 70, 70), latent_shape=(1, 70, 70), channels=(2,), blocks=(0,))
    document = make(model=write(tmp_path / "large", config)).openapi()
    assert len(json.dumps(document)) < len(json.dumps(make().openapi())) + 10_000
    assert "examples" not in document["components"]["schemas"]["Posterior"]["properties"]["mean"]
    assert "example" not in document["paths"]["/decode"]["post"]["requestBody"]["content"]["application/json"]


def test_operation_ids_are_the_names_of_the_endpoints(make):
    paths = make(api_key="key").openapi()["paths"]
    names = [
        operation["operationId"]
        for path, methods in paths.items()
        for operation in methods.values()
        if path not in KSERVE
    ]
    assert sorted(names) == [
        "decode",
        "diffusers_decode",
        "diffusers_encode",
        "encode",
        "history",
        "interpolate",
        "livez",
        "metrics",
        "model",
        "readyz",
        "reconstruct",
        "reload",
        "sample",
        "sample_post",
        "score",
    ]


def test_the_document_has_servers_a_license_and_described_tags(document):
    assert [server["url"] for server in document["servers"]] == ["/"]
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert {
        tag for path in document["paths"].values() for method in path.values() for tag in method["tags"]
    } == described


def test_the_document_has_no_constructs_that_break_generated_clients(document):
    assert None not in values(document, "default")
    for body in values(document["paths"], "multipart/form-data"):
        assert not list(values(body, "minItems"))
    found = [each for several in values(document["paths"], "parameters") for each in several]
    for parameter in (*document["components"]["parameters"].values(), *(each for each in found if "$ref" not in each)):
        assert "anyOf" not in parameter["schema"], parameter["name"]
        assert parameter["schema"].get("maximum", 0) < 2**63
    assert 2**63 not in values(document, "exclusiveMaximum")


def test_every_problem_has_its_type_and_every_response_its_headers(document):
    for path, methods in document["paths"].items():
        for responses in (operation["responses"] for operation in methods.values()):
            for status, reference in responses.items():
                response = resolved(document, reference)
                assert ("$ref" in reference) == (status >= "400" and "application/problem+json" in response["content"])
                assert "X-Request-ID" in response["headers"]
                assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
                if status != "200" and path not in KSERVE:
                    problem = response["content"]["application/problem+json"]["example"]
                    assert f"`{problem['type']}`" in response["description"]
            assert {"431", "500"} <= responses.keys()


def test_the_bounds_of_parameters_are_keywords_of_json_schema(document):
    parameters = [p for path in document["paths"].values() for o in path.values() for p in o.get("parameters", [])]
    schemas = {parameter["name"]: parameter["schema"] for parameter in parameters if "$ref" not in parameter}
    assert schemas["seed"] == {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "format": "int64"}
    assert schemas["n"] == {"type": "integer", "minimum": 1, "default": 16}
    assert schemas["temperature"] == {"type": "number", "minimum": 0, "maximum": 10, "default": 1.0}
    assert schemas["samples"] == schemas["columns"] == {"type": "integer", "minimum": 1}
