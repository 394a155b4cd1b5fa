"""Time of a request by stage, from its Server-Timing header and the clock of a client on the same machine.

python -m benchmarks.stages --clients 1
"""

import asyncio
import re
import sys
import time
from collections import Counter, defaultdict
from statistics import median
from typing import Annotated

import typer

from tests.support.live_server import serving
from tests.support.load import Connection, png, post

_STAGE = re.compile(r"(\w+);dur=([\d.]+)")


async def stages(clients: int, requests: int) -> str:
    """A table of medians in ms; the rest is HTTP, routing, headers, the log line, and the client."""
    spent: defaultdict[str, list[float]] = defaultdict(list)
    request = post("/encode", "image/png", png())

    async def ask(connection: Connection, count: int) -> None:
        for _ in range(count):
            start = time.perf_counter()
            answer = await connection.send_counted(request, counts)
            spent["all"].append((time.perf_counter() - start) * 1000)
            server = {stage: float(took) for stage, took in _STAGE.findall(answer.headers["server-timing"])}
            for stage, took in {**server, "rest": spent["all"][-1] - sum(server.values())}.items():
                spent[stage].append(took)

    counts: Counter[str] = Counter()
    async with serving(threads=0, log_level="warning") as service:
        connections = [Connection(service.port) for _ in range(clients)]
        await asyncio.gather(*(ask(connection, 100) for connection in connections))  # to warm up
        spent.clear()
        await asyncio.gather(*(ask(connection, requests // clients) for connection in connections))
        for connection in connections:
            connection.close()
    return "\n".join(f"{stage:>6} {median(took):8.3f} ms" for stage, took in spent.items())


def main(
    clients: Annotated[int, typer.Option(help="Number of clients.")] = 1,
    requests: Annotated[int, typer.Option(help="Number of requests of all clients.")] = 4000,
) -> None:
    """Profile POST /encode of one PNG, stage by stage."""
    sys.stdout.write(asyncio.run(stages(clients, requests)) + "\n")


if __name__ == "__main__":
    typer.run(main)
