"""The short way leads to the same answer as the long one, errors included."""

import inspect
import json

import pytest

from app.api import admin, routes
from app.codecs.images import write_npy

pytestmark = pytest.mark.anyio

LATENT = json.dumps({"latents": [[0, 0.5, 0, 1]]}).encode()
BODIES = {
    "/encode": ("application/x-npy", None),
    "/reconstruct": ("application/x-npy", None),
    "/decode": ("application/json", LATENT),
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("accept", ["*/*", "application/x-npy", "text/html"])
@pytest.mark.parametrize("broken", [False, True])
async def test_the_answer_is_that_of_the_long_way(client, digits, path, accept, broken):
    kind, body = BODIES[path]
    sent = {"content": b"{" if broken else body or write_npy(digits[:3, 0])}
    sent["headers"] = {"content-type": kind, "accept": accept, "x-request-id": "an-id"}
    short, long = [await client.post(way, **sent) for way in (path, f"{path}?&")]
    assert (short.status_code, short.content) == (long.status_code, long.content)
    for answer in (short, long):
        answer.headers.pop("server-timing", None)
    assert short.headers == long.headers


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/encode"), ("PUT", "/model"), ("GET", "/encode/"), ("GET", "/no")]
)
async def test_what_is_no_endpoint_is_told_so(client, method, path):
    short, long = [await client.request(method, way) for way in (path, f"{path}?&")]
    assert short.status_code == long.status_code in (404, 405)
    assert short.json()["detail"] == long.json()["detail"]


def test_whoever_takes_it_can_do_without_parameters():
    endpoints = [route.endpoint for route in (*routes.router.routes, *admin.router.routes)]
    assert len(endpoints) == 8
    for endpoint in endpoints:
        required = [p for p in inspect.signature(endpoint).parameters.values() if p.default is p.empty]
        assert [parameter.name for parameter in required] == ["request"]
