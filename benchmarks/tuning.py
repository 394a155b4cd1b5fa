"""Search of the best setting of each peer: `python -m benchmarks.tuning` writes `settings.json`."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from benchmarks.closed_loop import closed_loop
from benchmarks.models import folders
from benchmarks.payloads import Payload, singles
from benchmarks.schedule import scratch
from benchmarks.servers import serving
from benchmarks.systems import CONNECTIONS, SETTINGS, Setting, System, systems
from model.checkpoint import read_checkpoint

Tried = dict[Setting, dict[int, float]]


def main(
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 2,
    models: Annotated[str, typer.Option(help="small, larger or both, comma-separated.")] = "small,larger",
    only: Annotated[str, typer.Option(help="Peers by name, comma-separated; all by default.")] = "",
    port: Annotated[int, typer.Option(help="Port of the servers, of which one runs at a time.")] = 8710,
) -> None:
    """Measure every candidate of every peer with each model; the one with the highest throughput is the best."""
    known: dict[str, Any] = orjson.loads(SETTINGS.read_bytes()) if SETTINGS.exists() else {"best": {}, "tried": {}}
    peers = [each for each in systems() if each.candidates and (not only or each.name in only.split(","))]
    with scratch() as folder:
        places = folders(Path(folder))
        for model in models.split(","):
            payload = singles(read_checkpoint(places[model]).vae.config)["encode"]
            for peer in peers:
                found = {each: _rates(peer, each, places[model], payload, seconds, port) for each in peer.candidates}
                known["best"].setdefault(model, {})[peer.name] = {str(n): _best(found, n) for n in CONNECTIONS}
                known["tried"].setdefault(model, {})[peer.name] = {str(each): rates for each, rates in found.items()}
                options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
                SETTINGS.write_bytes(orjson.dumps(known, option=options))


def _rates(
    peer: System, setting: Setting, model: Path, payload: Payload, seconds: float, port: int
) -> dict[int, float]:
    """Requests per second for each number of connections."""
    environment = {**setting.environment(), "BENCH_OPERATIONS": "encode"}
    rates = {}
    with serving(peer, model, port, payload, environment) as server:
        for connections in CONNECTIONS:
            closed_loop(server.base, payload, connections, 1)
            rates[connections] = round(closed_loop(server.base, payload, connections, seconds).per_second, 1)
    typer.echo(f"{model.name}: {peer.name}, {setting}: {rates}", err=True)
    return rates


def _best(found: Tried, connections: int) -> Setting:
    return max(found, key=lambda setting: found[setting][connections])


if __name__ == "__main__":
    typer.run(main)
