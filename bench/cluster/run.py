"""The section ``cluster`` of `python -m bench`."""

from __future__ import annotations

from pathlib import Path

from bench.cluster import cells, table
from bench.cluster.costs import NotMeasured, solve, trips
from bench.cluster.nodes import Node
from bench.drive import Options
from bench.peers.base import PeerError
from bench.peers.mongo import Mongo
from bench.rounds import say
from bench.sizing.figures import Figures


def run(rounds: int, options: Options, machine: str, figures: Path | None) -> str:
    """Measure, write ``figures`` where they are asked for, and return what is printed."""
    mongo = Mongo(in_memory=True)
    say(f"nodes over one database ({mongo.version()})")
    try:
        from bench import storage_lanes, storage_writers  # the extra tideline[mongodb] may be missing

        mongo.start()
        measured = cells.measure(mongo, rounds, options)
        lanes = storage_lanes.measure(mongo)
        writings = [one for _ in range(rounds) for one in storage_writers.measure(mongo, options.seconds, say)]
    except (PeerError, ImportError) as error:
        return f"cluster: not measured: {error}"
    finally:
        mongo.stop()
    build, server = Node.build(), mongo.version()
    text = table.report(measured, lanes, writings)
    if figures is not None:
        machine = f"{machine}; meanwhile {table.disturbance(measured)}"
        command = f"python -m bench --only cluster --rounds {rounds} --seconds {options.seconds:g}"
        try:
            Figures(machine, server, build, command, solve(measured, lanes), trips(measured), text).write(figures)
        except (NotMeasured, OSError) as error:
            text += f"\n\n! {figures} is not written: {error}"
    return f"Nodes over one database: {build} over {server}\n\n{text}\n\nMeanwhile {table.disturbance(measured)}."
