"""A local server that speaks as much of the Hugging Face hub's API as its library needs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


class HubServer:
    """Serves the files of folders as repositories.

    `requested` are the files that were downloaded. `refused` maps a repository to the error code of the hub.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.refused: dict[str, str] = {}
        self.requested: list[str] = []
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def commit(self, repository: str) -> str:
        """The commit of a repository, which changes with any of its files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path in self.files(repository):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def files(self, repository: str) -> list[Path]:
        return sorted(path for path in self.repositories[repository].rglob("*") if path.is_file())

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        thread = Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._answer_api("/".join(parts[2:4]), *parts[4:6])
        else:
            self._answer_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _answer_api(self, repository: str, kind: str = "revision", revision: str = "main") -> None:
        hub = self.server.hub
        if not self._known(repository, revision):
            return
        folder = hub.repositories[repository]
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in hub.files(repository)}
        entries = [{"type": "file", "path": p, "size": n, "oid": _digest(folder / p)} for p, n in sizes.items()]
        about = {"id": repository, "sha": hub.commit(repository), "siblings": [{"rfilename": p} for p in sizes]}
        self._send(json.dumps(entries if kind == "tree" else about).encode())

    def _answer_file(self, repository: str, revision: str, name: str) -> None:
        hub = self.server.hub
        if self._known(repository, revision):
            path = hub.repositories[repository] / name
            if self.command == "GET":
                hub.requested.append(name)
            self._send(path.read_bytes(), ETag=f'"{_digest(path)}"', **{"X-Repo-Commit": hub.commit(repository)})

    def _known(self, repository: str, revision: str) -> bool:
        """Whether the revision exists and is not refused; the answer is sent if not."""
        hub = self.server.hub
        code = hub.refused.get(repository, "" if repository in hub.repositories else "RepoNotFound")
        if not code and revision not in ("main", hub.commit(repository)):
            code = "RevisionNotFound"
        if code:
            self._send(b"{}", 403 if code == "GatedRepo" else 404, **{"X-Error-Code": code})
        return not code

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
