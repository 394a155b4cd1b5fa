"""The OpenAPI document is valid, its examples work, and the service answers nothing that it does not announce."""

import time
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from conftest import running
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from app.main import create_app
from app.schemas import Problem
from app.settings import Settings

ENDPOINTS = {"/encode": "post", "/decode": "post", "/reconstruct": "post", "/sample": "get", "/score": "post"}
OPERATIONS = {
    **ENDPOINTS,
    "/model": "get",
    "/model/history": "get",
    "/livez": "get",
    "/readyz": "get",
    "/metrics": "get",
}


def no_failure_but_of_time(context: Any, response: Any, case: Any) -> None:
    """A caller who brings a deadline may be told that it has passed."""
    if response.status_code != 504 or "X-Request-Timeout" not in case.headers:
        not_a_server_error(context, response, case)


CONFORMANCE = [
    no_failure_but_of_time,
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


@pytest.fixture
def api(make) -> Any:
    """The document, and behind it the real application; schemathesis starts it here, and ends it with the test."""
    app = make()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    while not app.state.engine.ready:
        time.sleep(0.002)
    return schema


def values(node: Any, name: str) -> Iterator[Any]:
    """All that stands under a name anywhere in a document."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == name)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from values(child, name)


def test_the_document_names_every_operation_and_only_them(document):
    found = {path: next(iter(methods)) for path, methods in document["paths"].items()}
    assert found == OPERATIONS
    assert all(len(methods) == 1 for methods in document["paths"].values())


def test_the_document_is_valid_openapi_with_a_schema_in_every_place(api, document):
    api.validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_reference_resolves_and_every_schema_is_referred_to(document):
    references = set(values(document, "$ref"))
    defined = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references <= defined
    assert {"Latents", "LatentsIn", "Images", "Scores", "Model", "Problem"} <= {
        ref.rpartition("/")[2] for ref in references
    }


POSITIVE = [(path, GenerationMode.POSITIVE) for path in OPERATIONS]
NEGATIVE = [(path, GenerationMode.NEGATIVE) for path in ENDPOINTS]


@pytest.mark.parametrize(("path", "mode"), POSITIVE + NEGATIVE)
def test_whatever_comes_the_answer_is_one_of_those_announced(api, path, mode):
    operation = api[path][OPERATIONS[path]]

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
                if media == "application/json":
                    answer = await client.post(path, json=body["example"])
                    assert answer.status_code == 200, (path, answer.text)


@pytest.mark.anyio
async def test_every_announced_media_type_is_given_to_who_asks_for_it(client, document):
    for path, methods in document["paths"].items():
        method, operation = next(iter(methods.items()))
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        for media in operation["responses"]["200"]["content"]:
            answer = await client.request(method, path, json=body, headers={"Accept": media})
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, media)


def test_the_example_of_a_problem_is_one_of_its_own_status(document):
    for responses in (method["responses"] for path in document["paths"].values() for method in path.values()):
        for status, response in responses.items():
            example = response.get("content", {}).get("application/problem+json", {}).get("example")
            assert status == "200" or Problem(**example).status == int(status)


@pytest.mark.anyio
@pytest.mark.parametrize("path", [*ENDPOINTS, "/model", "/model/history"])
async def test_what_the_edge_refuses_is_announced(make, path):
    app, seen, key = make(api_key="key", max_body_bytes=10), set(), {"Authorization": "Bearer key"}
    announced = app.openapi()["paths"][path][OPERATIONS[path]]["responses"]
    async with running(app) as client:
        for draining in (False, True):
            app.state.door.draining = draining
            for headers in ({}, key, {**key, "Accept": "text/html"}, {**key, "Content-Length": "11"}):
                seen.add((await client.request(OPERATIONS[path], path, headers=headers)).status_code)
    assert {401, 406, 413, 503} <= seen <= {int(status) for status in announced}
    assert path.startswith("/model") or {"429", "504"} <= announced.keys()


def test_the_document_asks_for_a_key_only_where_one_is_asked_for(make, document):
    assert not list(values(document, "security"))
    locked = make(api_key="key").openapi()
    assert all(
        "security" in locked["paths"][path][OPERATIONS[path]] for path in (*ENDPOINTS, "/model", "/model/history")
    )
    assert not any("security" in locked["paths"][path]["get"] for path in ("/livez", "/readyz", "/metrics"))


def test_the_example_of_a_latent_fits_the_model(make, colour_model):
    body = make(model=colour_model).openapi()["paths"]["/decode"]["post"]["requestBody"]
    (latent,) = body["content"]["application/json"]["example"]["latents"]
    assert (len(latent), len(latent[0]), len(latent[0][0])) == (2, 4, 3)
