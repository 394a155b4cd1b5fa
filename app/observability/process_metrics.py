"""Process metrics of the supervisor and its workers together, under the standard names of a single process."""

import os
from collections.abc import Iterator

import psutil
from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_MINIMUM = ("process_start_time_seconds", "process_max_fds")
"""Metrics for which the group has the lowest value of its processes, and not the sum."""


class ProcessGroupCollector(Collector):
    """The metrics of `ProcessCollector`, summed over the parent of this process and all its children.

    The start time is the parent's, and the CPU time includes children that have exited.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, for all processes."""
        pids, seconds_of_exited = self._processes()
        found: dict[str, list[Metric]] = {}
        for pid in pids:
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                found.setdefault(metric.name, []).append(metric)
        for name, metrics in found.items():
            values = [metric.samples[0].value for metric in metrics]
            value = min(values) if name in _MINIMUM else sum(values)
            if name == "process_cpu_seconds":
                value += seconds_of_exited
            group = metrics[0]
            group.samples = [group.samples[0]._replace(value=value)]
            yield group

    def _processes(self) -> tuple[set[int], float]:
        """The processes of the group, and the CPU time of the children that have exited."""
        try:
            parent = psutil.Process(self._parent)
            pids, times = {child.pid for child in parent.children()}, parent.cpu_times()
        except psutil.NoSuchProcess:
            return {os.getpid()}, 0.0
        return {parent.pid, os.getpid(), *pids}, times.children_user + times.children_system
