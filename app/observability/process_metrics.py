"""What a parent and its workers take together: memory, processor time, files; by the names that one process has."""

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_OF_ONE = ("process_start_time_seconds", "process_max_fds")
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class ProcessGroupCollector(Collector):
    """The metrics of `ProcessCollector`, summed over the parent of this process and all its children."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def collect(self) -> Iterator[Metric]:
        """One metric for all; it started when the parent did, and has the processor time of those who are gone too."""
        found: dict[str, list[Metric]] = {}
        for pid in {self._parent, os.getpid(), *_children(self._parent)}:
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                found.setdefault(metric.name, []).append(metric)
        for name, metrics in found.items():
            values = [metric.samples[0].value for metric in metrics]
            value = min(values) if name in _OF_ONE else sum(values)
            if name == "process_cpu_seconds":
                value += _seconds_of_the_gone(self._parent)
            together = metrics[0]
            together.samples = [together.samples[0]._replace(value=value)]
            yield together


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _seconds_of_the_gone(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[13:15])) / _TICK
