"""Docker Compose: one project, its files and its containers."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Run a command and return its output; with its errors where `check` is off."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return (done.stdout if check else done.stdout + done.stderr).strip()


class Project:
    """The service composed from the compose file, further files, and the variables that they read."""

    network = "vae-check_default"

    def __init__(self, *files: str, port: int, **variables: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._files = [part for file in ("docker-compose.yml", *files) for part in ("--file", file)]
        self._env = {"VAE_PUBLISHED_PORT": str(port), "VAE_BATCH_INVARIANT": "true", "VAE_THREADS": "1", **variables}

    def __call__(self, *arguments: str, check: bool = True, **variables: str) -> str:
        """`docker compose` with these arguments."""
        command = ("docker", "compose", "--project-name", "vae-check", *self._files, *arguments)
        return run(*command, env={**self._env, **variables}, check=check)

    def up(self, *arguments: str, **variables: str) -> None:
        """Start what is missing and wait until it is healthy."""
        self("up", "--detach", "--wait", "--no-build", *arguments, **variables)

    def down(self) -> None:
        """Remove the containers of the project, whichever files started them, and their volumes."""
        self("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "30")

    def containers(self, service: str = "app") -> list[str]:
        """The running containers of a service."""
        return self("ps", "--quiet", service).split()


def inspect(container: str) -> Any:
    """The record of `docker inspect` for a container."""
    (found,) = json.loads(run("docker", "inspect", container))
    return found


def run_in(container: str, *command: str) -> str:
    """The output of a command in a container, whether the command fails or not."""
    return run("docker", "exec", container, *command, check=False)
