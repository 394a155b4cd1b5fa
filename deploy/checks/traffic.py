"""Traffic: questions whose answers are known, asked without pause, each counted as answered, refused, lost or wrong."""

import asyncio
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from os.path import commonprefix
from types import TracebackType
from typing import Self

import httpx

PICTURES = ("/sample?n=1&seed=1", "/sample?n=4&seed=2&columns=4")


@dataclass(frozen=True)
class Question:
    """One request. Its answer is fixed: every draw comes from a seed, and the service runs with VAE_BATCH_INVARIANT."""

    method: str
    path: str
    content: bytes = b""
    media_type: str = "image/png"

    async def ask(self, http: httpx.AsyncClient, request_id: str = "") -> httpx.Response:
        """The answer, whatever its status."""
        headers = {"Content-Type": self.media_type} if self.content else {}
        headers |= {"X-Request-ID": request_id} if request_id else {}
        return await http.request(self.method, self.path, content=self.content, headers=headers)


Known = dict[Question, bytes]


async def learn(url: str) -> Known:
    """The answers of the service that runs at the URL now, to a few questions about each endpoint."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        known: Known = {}
        for path in PICTURES:
            picture = await remember(known, http, Question("GET", path))
            encoded = await remember(known, http, Question("POST", "/encode?samples=2&seed=3", picture))
            latents = {"latents": json.loads(encoded)["latents"]}  # no model's name: another model decodes them as well
            await remember(known, http, Question("POST", "/decode", json.dumps(latents).encode(), "application/json"))
            await remember(known, http, Question("POST", "/reconstruct?seed=4", picture))
            await remember(known, http, Question("POST", "/score?samples=4&seed=5", picture))
    return known


async def learn_again(url: str, questions: Iterable[Question]) -> Known:
    """The answers of another model to the same questions."""
    known: Known = {}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for question in questions:
            await remember(known, http, question)
    return known


async def remember(known: Known, http: httpx.AsyncClient, question: Question) -> bytes:
    """Ask once and keep the answer."""
    answer = await question.ask(http)
    answer.raise_for_status()
    known[question] = answer.content
    return answer.content


@dataclass
class Tally:
    """What became of the requests. Those that are lost are kept by their ids, with what came instead of an answer.

    Of a wrong answer the question is kept, who gave it, and where it leaves the nearest right one.
    """

    answered: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """All requests."""
        return self.answered + self.refused + len(self.wrong) + len(self.lost)

    def count(self, request_id: str, question: Question, answer: httpx.Response, known: frozenset[bytes]) -> None:
        """An answer that came, whatever it says."""
        if answer.status_code == 200 and answer.content in known:
            self.answered += 1
        elif answer.status_code == 200:
            self.wrong.append(f"{question.path} by {answer.headers.get('X-Model')}: {_unlike(answer.content, known)}")
        elif answer.status_code in {429, 503} and "retry-after" in answer.headers:
            self.refused += 1
        else:
            self.lost[request_id] = f"status {answer.status_code}: {answer.text[:120]}"

    def miss(self, request_id: str, error: httpx.TransportError) -> None:
        """No answer came. Where not even a connection was made, the caller knows that nothing was accepted."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self.refused += 1
        else:
            self.lost[request_id] = f"{type(error).__name__} {error}"

    def never_entered(self, request_id: str) -> None:
        """The service did not accept this one: its connection was closed before it was read."""
        del self.lost[request_id]
        self.refused += 1


class Traffic:
    """Callers who ask one question after the other from entry to exit; none of them asks twice.

    Several `known` mean that the answer of any of them is right, as while one model takes over from another.
    """

    def __init__(self, url: str, *known: Known, callers: int = 16) -> None:
        self.tally = Tally()
        self._questions = [(question, frozenset(k[question] for k in known)) for question in known[0]]
        self._http = httpx.AsyncClient(base_url=url, timeout=60)
        self._callers = callers
        self._over = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(first)) for first in range(self._callers)]
        await self.flow(200)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def flow(self, requests: int) -> None:
        """Wait until so many more were sent."""
        enough = self.tally.sent + requests
        while self.tally.sent < enough:  # noqa: ASYNC110  # a counter sets no asyncio.Event
            await asyncio.sleep(0.02)

    async def _call(self, turn: int) -> None:
        while not self._over:
            question, known = self._questions[turn % len(self._questions)]
            request_id = uuid.uuid4().hex
            try:
                self.tally.count(request_id, question, await question.ask(self._http, request_id), known)
            except httpx.TransportError as error:
                self.tally.miss(request_id, error)
                await asyncio.sleep(0.02)
            turn += 1


def _unlike(content: bytes, known: frozenset[bytes]) -> str:
    alike, right = max((len(commonprefix((content, right))), right) for right in known)  # noqa: RUF071  # byte by byte it is
    seen, wanted = (some[alike : alike + 24] for some in (content, right))
    return f"{len(content)} bytes, from {alike} on {seen!r} instead of {wanted!r}"
