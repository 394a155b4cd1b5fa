"""Traffic of requests with known responses, counted as answered, refused, lost or wrong."""

import asyncio
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

SHIPPED = Path(__file__).parents[2] / "model" / "checkpoints" / "mnist"
IMAGES = ("/sample?n=1&seed=1", "/sample?n=4&seed=2&columns=4")


@dataclass(frozen=True)
class KnownRequest:
    """A request with a fixed response: every draw comes from a seed, and the service runs with VAE_BATCH_INVARIANT."""

    method: str
    path: str
    content: bytes = b""
    media_type: str = "image/png"

    async def send(self, http: httpx.AsyncClient, request_id: str = "") -> httpx.Response:
        """The response, of any status."""
        headers = {"Content-Type": self.media_type} if self.content else {}
        headers |= {"X-Request-ID": request_id} if request_id else {}
        return await http.request(self.method, self.path, content=self.content, headers=headers)


Known = dict[KnownRequest, bytes]


async def learn(url: str) -> Known:
    """The responses of a service to a few requests to each endpoint."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        known: Known = {}
        for path in IMAGES:
            image = await remember(known, http, KnownRequest("GET", path))
            encoded = await remember(known, http, KnownRequest("POST", "/encode?samples=2&seed=3", image))
            latents = {"latents": json.loads(encoded)["latents"]}  # without the name of the model
            decode = KnownRequest("POST", "/decode", json.dumps(latents).encode(), "application/json")
            await remember(known, http, decode)
            await remember(known, http, KnownRequest("POST", "/reconstruct?seed=4", image))
            await remember(known, http, KnownRequest("POST", "/score?samples=4&seed=5", image))
    return known


async def learn_again(url: str, requests: Iterable[KnownRequest]) -> Known:
    """The responses of another model to the same requests."""
    known: Known = {}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for request in requests:
            await remember(known, http, request)
    return known


async def remember(known: Known, http: httpx.AsyncClient, request: KnownRequest) -> bytes:
    """Send a request once and keep its response."""
    answer = await request.send(http)
    answer.raise_for_status()
    known[request] = answer.content
    return answer.content


@dataclass
class Tally:
    """Counts of requests by their outcome.

    `lost` has the error of each lost request by its id; `wrong` describes each wrong response: the path, the model, and
    where it first differs from a right one.
    """

    answered: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """All requests."""
        return self.answered + self.refused + len(self.wrong) + len(self.lost)

    def count(self, request_id: str, request: KnownRequest, answer: httpx.Response, known: frozenset[bytes]) -> None:
        """Count a response."""
        if answer.status_code == 200 and answer.content in known:
            self.answered += 1
        elif answer.status_code == 200:
            self.wrong.append(f"{request.path} by {answer.headers.get('X-Model')}: {_diff(answer.content, known)}")
        elif answer.status_code in {429, 503} and "retry-after" in answer.headers:
            self.refused += 1
        else:
            self.lost[request_id] = f"status {answer.status_code}: {answer.text[:120]}"

    def miss(self, request_id: str, error: httpx.TransportError) -> None:
        """Count a request without a response; it is refused, not lost, where there was no connection."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self.refused += 1
        else:
            self.lost[request_id] = f"{type(error).__name__} {error}"

    def was_refused(self, request_id: str) -> None:
        """Count a lost request as refused, because its connection was closed before it was read."""
        del self.lost[request_id]
        self.refused += 1


class Traffic:
    """Clients that send one request after another between entry and exit, without retries.

    With several `known`, the response of any of them is right, as while one model replaces another.
    """

    def __init__(self, url: str, *known: Known, clients: int = 16) -> None:
        self.tally = Tally()
        self._requests = [(request, frozenset(k[request] for k in known)) for request in known[0]]
        self._http = httpx.AsyncClient(base_url=url, timeout=60)
        self._clients = clients
        self._over = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run_client(first)) for first in range(self._clients)]
        await self.wait_for(200)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def wait_for(self, requests: int) -> None:
        """Wait until this number of further requests was sent."""
        enough = self.tally.sent + requests
        while self.tally.sent < enough:  # a counter sets no asyncio.Event
            await asyncio.sleep(0.02)

    async def _run_client(self, turn: int) -> None:
        while not self._over:
            request, known = self._requests[turn % len(self._requests)]
            request_id = uuid.uuid4().hex
            try:
                self.tally.count(request_id, request, await request.send(self._http, request_id), known)
            except httpx.TransportError as error:
                self.tally.miss(request_id, error)
                await asyncio.sleep(0.02)
            turn += 1


def _diff(content: bytes, known: frozenset[bytes]) -> str:
    common, right = max((len(commonprefix((content, right))), right) for right in known)  # noqa: RUF071  # byte by byte it is
    seen, wanted = (some[common : common + 24] for some in (content, right))
    return f"{len(content)} bytes, from {common} on {seen!r} instead of {wanted!r}"
