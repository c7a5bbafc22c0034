"""What a stream is near the end of: the disk, loopback, a core of the broker or the generator, all of the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.drive import Cell
from bench.rounds import median
from bench.shapes import PAYLOADS
from bench.table import OURS, columns


def shares(cells: Sequence[Cell], shape: str, label: str) -> dict[str, float]:
    """The part that the broker uses of each, where the run has it."""

    def of(peer: str, figure: str) -> float | None:
        return median(cells, shape, peer, figure)

    parts = {
        "disk": (of(label, "disk_mb"), of("disk", "mb")),
        "loopback": (of(label, "mb"), of("generator", "mb")),
        "broker's core": (of(label, "thread"), 1.0),
        "generator's core": (of(label, "busy"), 1.0),
    }
    return {name: used / whole for name, (used, whole) in parts.items() if used is not None and whole}


def nearest(found: Mapping[str, float]) -> str:
    """The one of which least is left."""
    name = max(found, key=lambda one: found[one])
    return f"{name}, {found[name]:.0%}"


def table(cells: Sequence[Cell]) -> str:
    """A line for each payload; empty where none was measured."""
    rows = [["payload", "MB/s", "written MB/s", "disk", "loopback", "broker's core", "generator's core", "nearest bound"]]
    for shape in PAYLOADS:
        found = shares(cells, shape.name, OURS)
        rate, written = (median(cells, shape.name, OURS, figure) for figure in ("mb", "disk_mb"))
        if rate is None or written is None:
            continue
        parts = [f"{found[name]:.0%}" if name in found else "-" for name in ("disk", "loopback")]
        cores = [f"{found[name]:.0%}" for name in ("broker's core", "generator's core")]
        rows.append([shape.name.removeprefix("payload-"), f"{rate:,.0f}", f"{written:,.0f}", *parts, *cores, nearest(found)])
    if len(rows) == 1:
        return ""
    notes = (
        "disk: of the MB/s that (disk) wrote and synced, in pieces of what can be in flight. loopback: of (ceiling)'s MB/s.\n"
        "broker's core: its busiest thread. A message is written more than once: the log, then the tables."
    )
    return f"What Tideline uses of each, in streams of 4 pairs\n\n{columns(rows)}\n\n{notes}"
