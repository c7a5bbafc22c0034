"""What MQTT 5 costs over 3.1.1 on Tideline, in the throughput shapes."""

from __future__ import annotations

from collections.abc import Sequence

from bench import wire
from bench.drive import Cell, Options
from bench.peers.tideline import Tideline
from bench.rounds import Contestant, median, run
from bench.shapes import THROUGHPUT
from bench.table import columns, cpu_change

BOUND = 10.0
"""Per cent that version 5 without properties may cost more."""

_OLD, _BARE, _TOLD = "3.1.1", "5 bare", "5 told"


def measure(rounds: int, options: Options) -> list[Cell]:
    """3.1.1, 5 with no property on any message, and 5 with what Tideline tells receivers that ask."""
    plain, telling = Tideline(), Tideline(message_properties="always")
    contestants = [
        Contestant(_OLD, plain),
        Contestant(_BARE, plain, wire.V5),
        Contestant(_TOLD, telling, wire.V5),
    ]
    return run(THROUGHPUT, contestants, rounds, options)


def table(cells: Sequence[Cell]) -> str:
    """Rates, and the cost of a delivery over 3.1.1 in per cent."""
    rows = [["", _OLD, _BARE, "cost", "", "processor time", _TOLD, "cost"]]
    for shape in THROUGHPUT:
        old, bare, told = (median(cells, shape.name, label, "rate") for label in (_OLD, _BARE, _TOLD))
        if not (old and bare):
            continue
        cost = (old / bare - 1) * 100
        line = [shape.rows[0].title, f"{old:,.0f}", f"{bare:,.0f}", f"{cost:+.1f} %", "reached" if cost <= BOUND else "MISSED"]
        line.append(cpu_change(cells, shape.name, _OLD, _BARE))
        rows.append([*line, f"{told:,.0f}" if told else "-", f"{(old / told - 1) * 100:+.1f} %" if told else "-"])
    title = f"Tideline: MQTT 5 against 3.1.1, deliveries/s (target for 5 without properties: at most {BOUND:g} %)"
    note = "5 told: every delivered message carries sequence, id, sender and time (mqtt.message_properties: always)."
    return f"{title}\n\n{columns(rows)}\n\n{note}"
