"""A real server process, and raw byte streams on sockets to it."""

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from tests.support.live_server import ROOT, SERVE, serve_command

PROBE = b"GET /livez HTTP/1.1\r\nHost: probe\r\nX-Request-ID: the-probe\r\n\r\n"
TIMEOUT = 30.0
"""Seconds after which a response that does not come fails a test."""


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Log:
    """The lines that a process writes to stderr, one JSON object each."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._reader = threading.Thread(target=self._read)

    def read_until(self, pattern: bytes) -> re.Match[bytes]:
        """Read lines until one matches, before `start`."""
        for line in self._stream:
            self._lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError("the process has ended")

    def start(self) -> None:
        self._reader.start()

    def close(self) -> None:
        if self._reader.is_alive():
            self._reader.join(TIMEOUT)
        self._stream.close()

    def _read(self) -> None:
        self._lines.extend(self._stream)

    def text(self) -> str:
        """All that the ended process has logged."""
        self._reader.join(TIMEOUT)
        return b"".join(self._lines).decode()

    def complaints(self) -> list[str]:
        """The records above INFO of the exited process, and lines that are not JSON."""
        self._reader.join(TIMEOUT)
        found = []
        for line in self._lines:
            try:
                record = json.loads(line)
            except ValueError:
                found.append(line.decode())
            else:
                if record["level"] not in ("DEBUG", "INFO"):
                    found.append(f"{record['level']}: {record['message']}")
        return found


@dataclass
class ServerProcess:
    port: int
    pid: int
    log: Log

    def connect(self, timeout: float = TIMEOUT) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def ask(self, request: bytes) -> Response:
        """The response to a request on a connection of its own."""
        with self.connect() as client, client.makefile("rb") as stream:
            client.sendall(request)
            response = read_response(stream)
            assert response is not None
            return response

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


@contextmanager
def server_process(
    model: Path, program: str = SERVE, workers: int = 1, exit_code: int = 0, **settings: object
) -> Iterator[ServerProcess]:
    """Run a server, from when all its workers are ready; it must exit with `exit_code` on SIGTERM."""
    command = serve_command(model, program, workers=workers, **settings)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    assert process.stderr is not None
    log = Log(process.stderr)
    try:
        found = log.read_until(rb"listening on http://127.0.0.1:(\d+)")
        log.start()
        server = ServerProcess(int(found[1]), process.pid, log)
        ready = b"\nvae_workers %d.0\n" % workers
        for _ in range(3000):
            if ready in server.ask(PROBE.replace(b"/livez", b"/metrics")).body:
                break
            time.sleep(0.02)
        yield server
        process.terminate()
        assert process.wait(TIMEOUT) == exit_code
    finally:
        process.kill()
        process.wait()
        log.close()


def read_response(stream: IO[bytes], *, bodiless: bool = False) -> Response | None:
    """The next response; None where the connection is closed before it."""
    try:
        line = stream.readline()
        if not line:
            return None
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", line)
        assert match, line
        headers: dict[str, str] = {}
        while (field := stream.readline()) != b"\r\n":
            assert field.endswith(b"\r\n"), field
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if bodiless or match[1] == b"100" else int(headers.get("content-length", "0"))
        return Response(int(match[1]), headers, stream.read(length))
    except ConnectionResetError:
        return None
