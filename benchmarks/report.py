"""Report of the measurements, as a Markdown table of medians and as JSON."""

from collections.abc import Iterator, Sequence
from math import isfinite, isnan, nan
from statistics import median
from typing import Any

from benchmarks.closed_loop import Measured
from benchmarks.payloads import BULK
from benchmarks.schedule import Row
from benchmarks.systems import FLOOR, OURS, System

Key = tuple[str, str, str, str]
Limits = dict[str, list[dict[str, float]]]


def medians(rows: Sequence[Row]) -> dict[Key, Measured]:
    """Medians over the rounds for each system and load; errors are summed."""
    groups: dict[Key, list[Measured]] = {}
    for row in rows:
        groups.setdefault((row.model, row.operation, row.load, row.system), []).append(row.measured)
    return {key: _median(group) for key, group in groups.items()}


def _median(group: Sequence[Measured]) -> Measured:
    middle = [median(values) for values in zip(*((m.per_second, m.p50_ms, m.p99_ms) for m in group), strict=True)]
    per_second, p50_ms, p99_ms = middle
    processor = [m.cpu_ms for m in group if isfinite(m.cpu_ms)]
    return Measured(per_second, p50_ms, p99_ms, sum(m.errors for m in group), median(processor) if processor else nan)


def markdown(facts: dict[str, str], systems: Sequence[System], rows: Sequence[Row], limits: Limits) -> str:
    """The report in Markdown."""
    found = medians(rows)
    names = [system.name for system in systems]
    head = [f"* {name}: {fact}" for name, fact in facts.items()]
    settings = [line for system in systems for line in _settings(system, list(limits))]
    return "\n".join([*head, "", *settings, "", *_table(found, names), "", *_targets(found, limits), ""])


def _settings(system: System, models: Sequence[str]) -> Iterator[str]:
    yield f"* {system.name}: {system.note}"
    for model in models if system.candidates else ():
        for setting, connections in system.settings(model):
            yield f"  * {model}, {', '.join(map(str, connections))} connections: {setting}"


def _table(found: dict[Key, Measured], names: Sequence[str]) -> list[str]:
    """Requests a second, p50 and p99 in milliseconds."""
    lines = ["| model | work | load | " + " | ".join(names) + " | to the best peer |", "|---" * (len(names) + 4) + "|"]
    for model, operation, load in dict.fromkeys(key[:3] for key in found):
        cells = {name: found.get((model, operation, load, name)) for name in names}
        shown = [_cell(cells[name]) for name in names]
        lines.append(f"| {model} | {operation} | {load} | " + " | ".join(shown) + f" | {_to_best(cells)} |")
    return lines


def _cell(measured: Measured | None) -> str:
    if measured is None:
        return ""
    wrong = f", **{measured.errors} errors**" if measured.errors else ""
    spent = "" if isnan(measured.cpu_ms) else f", {_ms(measured.cpu_ms)} ms CPU"
    return f"{measured.per_second:.0f}/s, {_ms(measured.p50_ms)}, {_ms(measured.p99_ms)} ms{spent}{wrong}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _to_best(cells: dict[str, Measured | None]) -> str:
    ours = cells.get(OURS)
    peers = {name: cell for name, cell in cells.items() if cell and name not in (OURS, FLOOR)}
    if not ours or not peers:
        return ""
    best = max(peers, key=lambda name: peers[name].per_second)
    return f"{ours.per_second / peers[best].per_second:.2f} x {best}, p99 {ours.p99_ms / peers[best].p99_ms:.2f} x"


def _targets(found: dict[Key, Measured], limits: Limits) -> list[str]:
    lines = ["| model | limit | limit's figure | the service | ratio | target |", "|---|---|---|---|---|---|"]
    for model, rounds in limits.items():
        limit = {key: median(each[key] for each in rounds) for key in rounds[0]}
        ours, floor = (found.get((model, "encode", "64 connections", name)) for name in (OURS, FLOOR))
        single = found.get((model, "encode", "1 connection", OURS))
        many = found.get((model, f"encode {BULK} as npy", "4 connections", OURS))
        raw = limit["images_per_second"]
        if ours and floor:
            lines.append(_share(model, "floor, 64 connections", floor.per_second, ours.per_second, "0.85, small"))
        if ours:
            lines.append(_share(model, "raw batched forward", raw, ours.per_second, "0.9, larger"))
        if many:
            lines.append(_share(model, f"raw batched forward, {BULK} as npy", raw, many.per_second * BULK, "0.7"))
        if single:
            least = limit["forward_ms"] + limit["codec_ms"]
            lines.append(
                f"| {model} | forward + codec of one | {least:.2f} ms | {single.p50_ms:.2f} ms "
                f"| + {single.p50_ms - least:.2f} ms | + 1 ms |"
            )
    return lines


def _share(model: str, limit: str, most: float, ours: float, target: str) -> str:
    return f"| {model} | {limit} | {most:.0f}/s | {ours:.0f}/s | {ours / most:.2f} | {target} |"


def as_json(facts: dict[str, str], rows: Sequence[Row], limits: Limits) -> dict[str, Any]:
    """All measurements."""
    measurements = [
        {
            "model": row.model,
            "system": row.system,
            "operation": row.operation,
            "load": row.load,
            "per_second": row.measured.per_second,
            "p50_ms": row.measured.p50_ms,
            "p99_ms": row.measured.p99_ms,
            "errors": row.measured.errors,
            "cpu_ms": row.measured.cpu_ms if isfinite(row.measured.cpu_ms) else None,
        }
        for row in rows
    ]
    return {"facts": facts, "limits": limits, "measurements": measurements}
