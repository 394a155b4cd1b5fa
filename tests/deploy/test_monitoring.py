"""Prometheus scrapes every replica, evaluates the alerts, and answers every query of the dashboard."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from tests.support.compose import ROOT, Project, run_in
from tests.support.traffic import Traffic, learn

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.usefixtures("clean")]

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "vae.json"
TIMEOUT = 60
"""Seconds until Prometheus has scraped every replica."""


async def test_prometheus_scrapes_every_replica_and_answers_the_queries_of_alerts_and_dashboard(port, table):
    project = Project("deploy/scale.yml", port=port, PROMETHEUS_PUBLISHED_PORT=str(port + 2))
    services = ("app", "proxy", "prometheus")
    project("--profile", "watch", "up", "--detach", "--wait", "--no-build", "--scale", "app=3", *services)
    known = await learn(project.url)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port + 2}/api/v1/") as prometheus:
        async with Traffic(project.url, known) as traffic:
            run_in(project.containers("proxy")[0], "wget", "-q", "-O", "-", "http://127.0.0.1:8000/nowhere")  # a 404
            replicas = await scraped(prometheus, len(project.containers()))
            await asyncio.sleep(15)  # a rate needs two scrapes
        table.add("with Prometheus", traffic.tally, replicas)
        assert not traffic.tally.refused
        assert len(replicas) == len(project.containers())
        assert set(await alert_states(prometheus)) == {"ok, inactive"}
        assert await queries_without_result(prometheus) == []


async def query(prometheus: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    response = await prometheus.get(path, params=parameters)
    response.raise_for_status()
    return response.json()["data"]


async def scraped(prometheus: httpx.AsyncClient, replicas: int) -> list[str]:
    """The replicas that were scraped, once there are as many as expected or the time is over."""
    end, instances = time.monotonic() + TIMEOUT, list[str]()
    while len(instances) < replicas and time.monotonic() < end:
        await asyncio.sleep(1)
        try:
            found = await query(prometheus, "query", query='up{job="vae"} == 1')
        except httpx.TransportError:
            continue
        instances = sorted(series["metric"]["instance"] for series in found["result"])
    return instances


async def alert_states(prometheus: httpx.AsyncClient) -> list[str]:
    """The health and the state of each alert."""
    rules = [rule for group in (await query(prometheus, "rules"))["groups"] for rule in group["rules"]]
    return [f"{rule['health']}, {rule['state']}" for rule in rules]


async def queries_without_result(prometheus: httpx.AsyncClient) -> list[str]:
    """The queries of the dashboard that name no existing series."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [
        text
        for text in queries
        if not (await query(prometheus, "query", query=text.replace("$__rate_interval", "30s")))["result"]
    ]
