"""Repeats the container tests: `make containers`; exits with 1 if a request was lost or something was not as expected.

Needs Docker with buildx and compose. The image is built first; with --wheels offline, from a folder of wheels; with
--debian also HAProxy and Prometheus, from Debian's packages, where their images cannot be pulled.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path

import alone
import image
import replicas
import watched
from compose import Project
from report import Report

Check = Callable[[Report, int, Path], Coroutine[None, None, None]]
CHECKS: tuple[Check, ...] = (alone.check, replicas.check, watched.check)


async def check(report: Report, port: int, scratch: Path) -> None:
    """Every check in turn, each from nothing."""
    project = Project(port=port)
    for part in CHECKS:
        project.down()
        try:
            await part(report, port, scratch)
        finally:
            project.down()


def main() -> int:
    """Build, check, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8500, help="where the service is published")
    parser.add_argument("--wheels", help="a folder of wheels, for building offline")
    parser.add_argument("--torch-index", default="", help="index of torch's CPU wheels")
    parser.add_argument("--no-build", action="store_true", help="check the image vae-service that is there")
    parser.add_argument("--debian", action="store_true", help="build HAProxy and Prometheus from Debian's packages")
    options = parser.parse_args()
    report = Report()
    if not options.no_build:
        image.build(report, options.wheels, options.torch_index)
    if options.debian:
        image.build_stand_ins()
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)  # the service is another user
        asyncio.run(check(report, options.port, Path(scratch)))
    report.print()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
