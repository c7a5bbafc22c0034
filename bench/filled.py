"""What data costs: the throughput shapes on an empty Tideline and on one with millions of messages and many filters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.drive import Cell, Options
from bench.peers.tideline import Tideline
from bench.rounds import Contestant, median, run, say
from bench.shapes import THROUGHPUT
from bench.table import columns, cpu_change

BOUND = 10.0
"""Per cent that a delivery may cost more."""


class Kept(Tideline):
    """Tideline on a database that was filled before, and that survives `stop`."""

    name = "filled"

    def __init__(self) -> None:
        super().__init__()
        self._kept = super().make_home()
        self.home = self._kept

    def make_home(self) -> Path:
        return self._kept

    def remove_home(self) -> None:
        """The data stays until `discard`."""

    def discard(self) -> None:
        """Remove the data."""
        shutil.rmtree(self._kept, ignore_errors=True)


def measure(rounds: int, options: Options, messages: int, filters: int) -> list[Cell]:
    """Fill, then measure both in turn."""
    filled = Kept()
    try:
        say(f"filling a database with {messages:,} messages and {filters:,} filters")
        command = [sys.executable, "-m", "bench.prefill", filled.storage_url, f"--messages={messages}", f"--filters={filters}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return run(THROUGHPUT, [Contestant("empty", Tideline()), Contestant("filled", filled)], rounds, options)
    finally:
        filled.stop()
        filled.discard()


def table(cells: Sequence[Cell], messages: int, filters: int) -> str:
    """Both figures, and how much more a delivery costs with the data, per cent."""
    rows = [["", "empty", "filled", "growth of cost", "", "processor time"]]
    for shape in THROUGHPUT:
        empty, filled = (median(cells, shape.name, label, "rate") for label in ("empty", "filled"))
        if empty and filled:
            growth = (empty / filled - 1) * 100
            judged = "reached" if growth < BOUND else "MISSED"
            line = [shape.rows[0].title, f"{empty:,.0f}", f"{filled:,.0f}", f"{growth:+.1f} %", judged]
            rows.append([*line, cpu_change(cells, shape.name, "empty", "filled")])
    title = f"Tideline with {messages:,} stored messages and {filters:,} subscription filters against empty, deliveries/s"
    return f"{title} (target: below {BOUND:g} %)\n\n{columns(rows)}"
