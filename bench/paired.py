"""This tree beside another one: `python -m bench.paired TREE`, such as a `git worktree` of the commit before a change.

Processor time of the broker for each delivery, of the two in turn, and the ratio pair by pair: that holds where the machine is
shared, as rates do not. Of a storm: for each client, which connects and goes again. The ratio of the waits for a PUBACK (p50),
too, where a shape measures those. Each is what its `make compile` made, where that was run, or with ``--pure`` its sources.
TREE may be this one, and what differs the interpreter: a script may stand for one, and have it find another OpenSSL.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from bench.drive import Options, measure
from bench.peers.tideline import Tideline, interpreter
from bench.process import cpu_by_thread
from bench.rounds import say
from bench.shapes import SHAPES, Shape
from bench.table import columns

Times = tuple[float, float, float]
"""Microseconds for each delivery: of the event loop's thread, and of all others. How long a PUBACK took, or 0."""


class Ours(Tideline):
    """Tideline from a tree; patient, as both are started where nothing waits for them."""

    start_timeout = 120.0


def of_tree(tree: Path, pure: bool, python: str) -> type[Ours]:
    """The broker that the tree has, in this interpreter."""
    compiled = tree / "build" / "compiled"
    found = tree if pure or not (compiled / ".stamp").exists() else compiled
    return type("OfTree", (Ours,), {"tree": found, "python": python})


def once(peer: Tideline, shape: Shape, options: Options) -> Times | None:
    """One round; None where something was not as it should be, which is said."""
    before = cpu_by_thread(peer.pid)
    cell = measure(shape, peer, options)
    delivered = cell.figures.get("delivered") or cell.figures.get("connections")
    if cell.trouble or not delivered:
        say(f"! {shape.name}: {cell.trouble}")
        return None
    used = {name: seconds - before.get(name, 0.0) for name, seconds in cpu_by_thread(peer.pid).items()}
    loop = sum(seconds for name, seconds in used.items() if name.split()[0] == str(peer.pid))
    return loop / delivered * 1e6, (sum(used.values()) - loop) / delivered * 1e6, cell.figures.get("ack_p50", 0.0)


def compared(theirs: Tideline, ours: Tideline, shapes: list[Shape], rounds: int, options: Options) -> str:
    """The table. Both are started, and once more for each shape that needs another listener, or users and rules."""
    found: dict[str, list[tuple[Times, Times]]] = defaultdict(list)
    for needs in dict.fromkeys(_needs(shape) for shape in shapes):
        alike = [shape for shape in shapes if _needs(shape) == needs]
        for peer in (theirs, ours):
            peer.suit(alike[0])
            if not peer.alive:
                peer.start()
        for number in range(rounds):
            for shape in alike:
                turn = (theirs, ours) if number % 2 == 0 else (ours, theirs)
                times = {peer: once(peer, shape, options) for peer in turn}
                that, this = times[theirs], times[ours]
                if that is not None and this is not None:
                    found[shape.name].append((that, this))
    rows = [
        [
            "µs for each delivery or client",
            "loop before",
            "after",
            "other threads before",
            "after",
            "all, after / before",
            "PUBACK, after / before",
            "of rounds",
        ]
    ]
    for name, pairs in found.items():
        middle = [statistics.median(pair[side][part] for pair in pairs) for part in (0, 1) for side in (0, 1)]
        used = _ratio([sum(this[:2]) / sum(that[:2]) for that, this in pairs])
        waited = _ratio([this[2] / that[2] for that, this in pairs if that[2]])
        rows.append([name, *(f"{value:.2f}" for value in middle), used, waited, str(len(pairs))])
    return columns(rows)


def _needs(shape: Shape) -> tuple[str, bool]:
    return shape.transport, shape.ruled


def _ratio(found: list[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(found):.3f} ({min(found):.2f} to {max(found):.2f})" if found else ""


def main() -> None:
    """The command."""
    known = {shape.name: shape for shape in SHAPES if shape.load in ("stream", "latency", "many", "drain", "storm")}
    parser = argparse.ArgumentParser(prog="python -m bench.paired", description=__doc__)
    parser.add_argument("tree", type=Path, help="where the other one is")
    parser.add_argument("--only", default="one,pairs,fan-out,latency", help=f"of {','.join(known)}")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each round")
    parser.add_argument("--full", action="store_true", help="the full sizes, as of many, instead of the quick ones")
    parser.add_argument("--pure", action="store_true", help="pure Python, also where a core is compiled")
    parser.add_argument("--python", type=interpreter, default=Ours.python, help="what this tree's broker runs in")
    parser.add_argument("--python-before", type=interpreter, default=Ours.python, help="what the other one's runs in")
    given = parser.parse_args()
    if wrong := [name for name in given.only.split(",") if name not in known]:
        parser.error(f"--only {','.join(wrong)}: choose from {', '.join(known)}")
    if not (given.tree / "broker").is_dir():
        parser.error(f"{given.tree} has no broker/: name a checkout of Tideline")
    theirs = of_tree(given.tree.resolve(), given.pure, given.python_before)()
    ours = of_tree(Path(__file__).parents[1], given.pure, given.python)()
    say(f"before: {theirs.tree} in {theirs.python}\nafter: {ours.tree} in {ours.python}")
    try:
        shapes = [known[name] for name in given.only.split(",")]
        print(compared(theirs, ours, shapes, given.rounds, Options(given.seconds, quick=not given.full)))
    finally:
        theirs.stop()
        ours.stop()


if __name__ == "__main__":
    main()
