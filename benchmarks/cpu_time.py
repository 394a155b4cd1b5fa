"""CPU time of a server, a measure that is robust on a busy machine."""

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.closed_loop import Measured, closed_loop
from benchmarks.payloads import Payload
from benchmarks.servers import Server

_TICK = os.sysconf("SC_CLK_TCK")


def closed_loop_with_cpu_time(server: Server, payload: Payload, connections: int, seconds: float) -> Measured:
    """Measure a server in a closed loop, with the CPU time of its processes for each request."""
    before = cpu_seconds(server.session)
    measured = closed_loop(server.base, payload, connections, seconds)
    spent = cpu_seconds(server.session) - before
    return replace(measured, cpu_ms=1000 * spent / max(1, measured.per_second * seconds))


def cpu_seconds(session: int) -> float:
    """User and system time of all processes of a session, from /proc."""
    return sum(_spent(stat, session) for stat in Path("/proc").glob("[0-9]*/stat"))


def _spent(stat: Path, session: int) -> float:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK if int(fields[3]) == session else 0.0
