"""What it costs that very many devices belong to one user: each on a topic of its own, against as many anonymous ones."""

from __future__ import annotations

from collections.abc import Sequence

from bench.drive import Cell, Options
from bench.peers.tideline import Tideline, TidelineOneUser
from bench.rounds import Contestant, median, run
from bench.shapes import Row, Shape
from bench.table import columns, cpu_change

BOUND = 10.0
"""Per cent that one user's devices may cost more."""

_ACTIVE = 50
_APART, _ONE = "a user each", "one user"


def _shape(devices: int) -> Shape:
    """Most devices are connected and due nothing, as in a fleet."""
    sizes = {"pairs": _ACTIVE, "fan": 1, "window": 8, "others": devices - _ACTIVE}
    title = f"{devices:,} devices, {_ACTIVE} of which get messages"
    rows = (Row("rate", title, "deliveries/s"),)
    return Shape(f"one-user-{devices}", title, "stream", rows, sizes, timeout=600.0)


def measure(rounds: int, options: Options, counts: Sequence[int]) -> list[Cell]:
    """For each number of devices: as many users, and one."""
    contestants = [Contestant(_APART, Tideline()), Contestant(_ONE, TidelineOneUser())]
    return run([_shape(count) for count in counts], contestants, rounds, options)


def table(cells: Sequence[Cell], counts: Sequence[int]) -> str:
    """Both rates, and how much more a delivery to one user's devices costs, per cent."""
    rows = [["", _APART, _ONE, "cost", "", "processor time"]]
    for shape in map(_shape, counts):
        apart, one = (median(cells, shape.name, label, "rate") for label in (_APART, _ONE))
        if apart and one:
            cost = (apart / one - 1) * 100
            line = [shape.title, f"{apart:,.0f}", f"{one:,.0f}", f"{cost:+.1f} %", "reached" if cost <= BOUND else "MISSED"]
            rows.append([*line, cpu_change(cells, shape.name, _APART, _ONE)])
    title = f"Tideline: many devices of one user, deliveries/s (target: at most {BOUND:g} % more than of a user each)"
    return f"{title}\n\n{columns(rows)}"
