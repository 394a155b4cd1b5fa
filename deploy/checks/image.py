"""The images that are checked."""

import os
import time

from compose import run
from report import Report

DEBIAN = {"haproxy": "PROXY_IMAGE", "prometheus": "PROMETHEUS_IMAGE"}


def build(report: Report, wheels: str | None, torch_index: str) -> None:
    """Build the service's image from nothing, and tell how long that took and how large it is."""
    start = time.monotonic()
    options = ["--build-context", f"wheels={wheels}"] if wheels else []
    options += ["--build-arg", f"TORCH_INDEX={torch_index}"] if torch_index else []
    run("docker", "build", "--no-cache", *options, "--tag", "vae-service", ".")
    seconds = time.monotonic() - start
    size = int(run("docker", "image", "inspect", "--format", "{{.Size}}", "vae-service"))
    report.fact("image built", f"{seconds:.0f} s, {size / 1e9:.2f} GB", good=True)


def build_stand_ins() -> None:
    """HAProxy and Prometheus from Debian, under the names that the compose files will find."""
    for target, variable in DEBIAN.items():
        os.environ[variable] = f"vae-check-{target}"
        recipe = "deploy/checks/debian.Dockerfile"
        run("docker", "build", "--target", target, "--tag", f"vae-check-{target}", "--file", recipe, "deploy/checks")
