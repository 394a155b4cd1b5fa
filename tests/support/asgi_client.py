"""ASGI client that sends each message of a request when the test calls for it, and can disconnect in between."""

import asyncio
import json
from typing import Any

from fastapi import FastAPI

LEAVES = {"type": "http.disconnect"}


class Caller:
    """One request; the test sends its messages one by one."""

    def __init__(self, app: FastAPI, method: str, path: str, kind: str = "application/json", **headers: str) -> None:
        self.app, self.messages, self.sent = app, asyncio.Queue[dict[str, Any]](), list[dict[str, Any]]()
        pairs = {"content-type": kind, **headers}
        path, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
        }

    def says(self, body: bytes, more: bool = False) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leaves(self) -> None:
        self.messages.put_nowait(LEAVES)

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def task(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.app(self.scope, self.messages.get, self.send))

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def problem(self) -> dict[str, Any]:
        return json.loads(self.sent[1]["body"])
