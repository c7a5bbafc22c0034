"""The figures that the documentation shows: medians of the last run of each shape, in measured.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.drive import Cell
from bench.rounds import median

MEASURED = Path(__file__).with_name("measured.json")


@dataclass
class Kept:
    """One cell, of medians, for each shape and broker; ``commands`` say by shape what was run, and ``machines`` where."""

    cells: list[Cell] = field(default_factory=list)
    commands: dict[str, str] = field(default_factory=dict)
    machines: dict[str, str] = field(default_factory=dict)

    def add(self, cells: Sequence[Cell], command: str, machine: str) -> None:
        """In place of what was kept of the same shapes."""
        shapes = dict.fromkeys(cell.shape for cell in cells if cell.figures)
        self.cells = [cell for cell in self.cells if cell.shape not in shapes]
        for shape, peer in dict.fromkeys((cell.shape, cell.peer) for cell in cells if cell.figures):
            names = dict.fromkeys(name for cell in cells if (cell.shape, cell.peer) == (shape, peer) for name in cell.figures)
            found = ((name, median(cells, shape, peer, name)) for name in names)
            figures = {name: float(f"{value:.6g}") for name, value in found if value is not None}
            self.cells.append(Cell(shape, peer, figures))
        self.commands |= dict.fromkeys(shapes, command)
        self.machines |= dict.fromkeys(shapes, machine)

    def get(self, shape: str, peer: str, figure: str) -> float | None:
        """A figure, where it was measured."""
        return median(self.cells, shape, peer, figure)

    def write(self, path: Path = MEASURED) -> None:
        """As JSON, a cell a line."""
        given = {"commands": self.commands, "machines": self.machines}
        head = json.dumps(given, indent=1).removesuffix("\n}")
        cells = ((cell.shape, cell.peer, cell.figures) for cell in self.cells)
        lines = ",\n  ".join(json.dumps(dict(zip(("shape", "peer", "figures"), cell, strict=True))) for cell in cells)
        path.write_text(f'{head},\n "cells": [\n  {lines}\n ]\n}}\n', encoding="utf-8")

    @classmethod
    def read(cls, path: Path = MEASURED) -> Kept:
        """Nothing, where there is no file."""
        if not path.exists():
            return cls()
        given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls([Cell(**one) for one in given["cells"]], given["commands"], given["machines"])
