"""python -m benchmarks: one command, one table."""

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from benchmarks.contestants import OURS, contestants
from benchmarks.machine import busyness, machine
from benchmarks.models import folders
from benchmarks.report import Limits, as_json, markdown
from benchmarks.rounds import Course, Row, scratch

RESULTS = Path(__file__).parent / "results"


def main(
    rounds: Annotated[int, typer.Option(help="How often everyone takes a turn; medians are over them.")] = 3,
    seconds: Annotated[float, typer.Option(help="How long each measurement takes.")] = 5,
    models: Annotated[str, typer.Option(help="small, larger or both, comma-separated.")] = "small,larger",
    only: Annotated[str, typer.Option(help="Contestants by name, comma-separated; all unless told.")] = "",
    port: Annotated[int, typer.Option(help="Where the servers listen, one at a time.")] = 8710,
    out: Annotated[Path, typer.Option(help="Where table.md and measurements.json go.")] = RESULTS,
) -> None:
    """Measure the service beside its peers, and write the table after every round."""
    wanted = {OURS, *only.split(",")} if only else set()
    who = [contestant for contestant in contestants() if not wanted or contestant.name in wanted]
    rows: list[Row] = []
    limits: Limits = {}
    facts = {**machine(), "command": "python -m benchmarks " + " ".join(sys.argv[1:]), "load before": busyness()}
    out.mkdir(parents=True, exist_ok=True)
    with scratch() as folder:
        known = folders(Path(folder))
        courses = [
            Course(name, known[name], seconds, port, Path(folder) / name / "answers") for name in models.split(",")
        ]
        for number in range(1, rounds + 1):
            for course in courses:
                limits.setdefault(course.name, []).append(course.limits())
                for contestant in who:
                    for row in course.turn(contestant):
                        typer.echo(f"{number}: {row}", err=True)
                        rows.append(row)
            facts |= {"rounds": str(number), "load after": busyness()}
            table = markdown(facts, who, rows, limits)
            (out / "table.md").write_text(table)
            (out / "measurements.json").write_bytes(
                orjson.dumps(as_json(facts, rows, limits), option=orjson.OPT_INDENT_2)
            )
    typer.echo(table)


if __name__ == "__main__":
    typer.run(main)
