"""Prometheus beside the replicas: it scrapes each of them, has the alerts, and every query of the dashboard answers."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
from compose import ROOT, Project, inside
from report import Report
from traffic import Traffic, learn

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "vae.json"
PATIENCE_S = 60


async def check(report: Report, port: int, scratch: Path) -> None:  # noqa: ARG001  # the same for every check
    """Three replicas under load, and Prometheus."""
    project = Project("deploy/scale.yml", port=port, PROMETHEUS_PUBLISHED_PORT=str(port + 2))
    services = ("app", "proxy", "prometheus")
    project("--profile", "watch", "up", "--detach", "--wait", "--no-build", "--scale", "app=3", *services)
    known = await learn(project.url)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port + 2}/api/v1/") as prometheus:
        async with Traffic(project.url, known) as traffic:
            inside(project.containers("proxy")[0], "wget", "-q", "-O", "-", "http://127.0.0.1:8000/nowhere")  # fails
            up = await scraped(prometheus, len(project.containers()))
            await asyncio.sleep(15)  # a rate needs two scrapes
        report.traffic("watched", traffic.tally)
        report.fact("replicas that Prometheus scrapes", up, good=len(up) == len(project.containers()))
        await alerts(report, prometheus)
        await dashboard(report, prometheus)


async def ask(prometheus: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    """The data of one answer of Prometheus's API."""
    answer = await prometheus.get(path, params=parameters)
    answer.raise_for_status()
    return answer.json()["data"]


async def scraped(prometheus: httpx.AsyncClient, replicas: int) -> list[str]:
    """The replicas that were scraped, once as many as expected were, or when patience ends."""
    end = time.monotonic() + PATIENCE_S
    up: list[str] = []
    while len(up) < replicas and time.monotonic() < end:
        await asyncio.sleep(1)
        try:
            found = await ask(prometheus, "query", query='up{job="vae"} == 1')
        except httpx.TransportError:
            continue
        up = sorted(series["metric"]["instance"] for series in found["result"])
    return up


async def alerts(report: Report, prometheus: httpx.AsyncClient) -> None:
    """Every alert is loaded, evaluated without an error, and silent while all is well."""
    rules = [rule for group in (await ask(prometheus, "rules"))["groups"] for rule in group["rules"]]
    seen = {rule["name"]: f"{rule['health']}, {rule['state']}" for rule in rules}
    report.fact("alerts", seen, good=bool(seen) and set(seen.values()) == {"ok, inactive"})


async def dashboard(report: Report, prometheus: httpx.AsyncClient) -> None:
    """Every query of the Grafana dashboard names something that is measured."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    empty = [
        query
        for query in queries
        if not (await ask(prometheus, "query", query=query.replace("$__rate_interval", "30s")))["result"]
    ]
    report.fact("queries of the dashboard", f"{len(queries)}, without an answer: {empty}", good=not empty)
