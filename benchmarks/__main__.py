"""Benchmark of the service beside other systems: `python -m benchmarks` writes one table."""

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from benchmarks.machine import load_averages, machine
from benchmarks.models import folders
from benchmarks.report import Limits, as_json, markdown
from benchmarks.schedule import Row, Schedule, scratch
from benchmarks.systems import OURS, systems

RESULTS = Path(__file__).parent / "results"


def main(
    rounds: Annotated[int, typer.Option(help="Number of rounds, over which medians are taken.")] = 3,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 5,
    models: Annotated[str, typer.Option(help="small, larger or both, comma-separated.")] = "small,larger",
    only: Annotated[str, typer.Option(help="Systems by name, comma-separated; all by default.")] = "",
    port: Annotated[int, typer.Option(help="Port of the servers, of which one runs at a time.")] = 8710,
    out: Annotated[Path, typer.Option(help="Folder of table.md and measurements.json.")] = RESULTS,
) -> None:
    """Measure all systems, and write the table after every round."""
    wanted = {OURS, *only.split(",")} if only else set()
    chosen = [system for system in systems() if not wanted or system.name in wanted]
    rows: list[Row] = []
    limits: Limits = {}
    facts = {**machine(), "command": "python -m benchmarks " + " ".join(sys.argv[1:]), "load before": load_averages()}
    out.mkdir(parents=True, exist_ok=True)
    with scratch() as folder:
        known = folders(Path(folder))
        schedules = [
            Schedule(name, known[name], seconds, port, Path(folder) / name / "answers") for name in models.split(",")
        ]
        for number in range(1, rounds + 1):
            for schedule in schedules:
                limits.setdefault(schedule.name, []).append(schedule.limits())
                for system in chosen:
                    for row in schedule.turn(system):
                        typer.echo(f"{number}: {row}", err=True)
                        rows.append(row)
            facts |= {"rounds": str(number), "load after": load_averages()}
            table = markdown(facts, chosen, rows, limits)
            (out / "table.md").write_text(table)
            (out / "measurements.json").write_bytes(
                orjson.dumps(as_json(facts, rows, limits), option=orjson.OPT_INDENT_2)
            )
    typer.echo(table)


if __name__ == "__main__":
    typer.run(main)
