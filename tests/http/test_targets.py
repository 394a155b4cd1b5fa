"""Targets: the dialect and endpoint of a path, as metrics, admission and errors use them."""

import pytest

from app.context import EndpointPath
from app.http.targets import Target, Targets
from app.observability.metrics import Metrics

INFER = Target("v9", "/v9/{name}/infer", uses_queue=True)
READY = Target("v9", "/v9/ready", is_public=True)
OTHER = Target("v9", "other")
ROUTES = [(INFER.endpoint, INFER), (READY.endpoint, READY), ("/v9/{path:path}", OTHER)]


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v9/a/infer", INFER),
        ("/v9/ready", READY),
        ("/v9/a/b/infer", OTHER),
        ("/v9/a\nb", OTHER),
        ("/v9/", OTHER),
        ("/v9", Target("native", "other")),
        ("/encode", Target("native", "/encode", uses_queue=True)),
        ("/model", Target("native", "/model")),
        ("/nowhere", Target("native", "other")),
        ("/livez", Target("native", "other", is_public=True)),
        ("/web/1/main.js", Target("native", "other", is_public=True)),
    ],
)
def test_a_path_leads_to_the_first_route_that_it_matches(path, target):
    assert Targets(ROUTES)[path] == target


def test_paths_of_clients_are_not_kept():
    targets = Targets(ROUTES)
    before = len(targets)
    for number in range(1000):
        assert targets[f"/v9/{number}/infer"] == INFER
    assert len(targets) == before


def test_the_series_of_every_endpoint_of_a_dialect_exist_from_the_start():
    labels = Targets(ROUTES).labels()
    assert labels == {("native", path) for path in (*EndpointPath, "other")} | {target[:2] for _, target in ROUTES}
    value = Metrics(labels).registry.get_sample_value
    series = [{"dialect": dialect, "endpoint": endpoint, "status": "200"} for dialect, endpoint in labels]
    assert {value("vae_requests_total", each) for each in series} == {0}
