"""Interleaved rounds: every contestant is measured once per round, so that a drift of the machine meets all of them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench import wire
from bench.drive import Cell, Options, measure
from bench.peers.base import Peer, PeerError
from bench.peers.disk import Disk
from bench.shapes import Shape


@dataclass(frozen=True)
class Contestant:
    """A column of a table: a broker, and how it is talked to. Two contestants may share a broker."""

    label: str
    peer: Peer
    version: int = wire.V311


def say(text: str) -> None:
    """Progress, beside the table that goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def run(shapes: Iterable[Shape], contestants: Sequence[Contestant], rounds: int, options: Options) -> list[Cell]:
    """Measure everything; a broker that cannot be started has cells that say why. All are stopped at the end."""
    cells: list[Cell] = []
    dead: dict[str, str] = {}
    try:
        for shape in shapes:
            say(f"{shape.title}")
            for number in range(min(rounds, shape.rounds or rounds)):
                turn = number % len(contestants)
                for contestant in (*contestants[turn:], *contestants[:turn]):
                    if not _takes_part(contestant.peer, shape) or (contestant.peer.name == "generator" and number):
                        continue
                    cell = _measure(shape, contestant, options, dead)
                    cells.append(cell)
                    say(f"  {contestant.label:<12}{_summary(shape, cell)}")
            if shape.fresh:
                _stop(contestants)
    finally:
        _stop(contestants)
    return cells


def _takes_part(peer: Peer, shape: Shape) -> bool:
    if isinstance(peer, Disk) and not shape.disk:
        return False
    return peer.suits(shape)


def _measure(shape: Shape, contestant: Contestant, options: Options, dead: dict[str, str]) -> Cell:
    peer = contestant.peer
    if contestant.label in dead:
        return Cell(shape.name, contestant.label, trouble=dead[contestant.label])
    try:
        if shape.fresh:
            peer.stop()
        peer.suit(shape)
        if not peer.alive:
            peer.stop()
            peer.start()
    except PeerError as error:
        dead[contestant.label] = str(error)
        return Cell(shape.name, contestant.label, trouble=str(error))
    if isinstance(peer, Disk):
        return Cell(shape.name, contestant.label, peer.write(shape.sizes, options.seconds))
    cell = measure(shape, peer, options, version=contestant.version)
    cell.peer = contestant.label
    if shape.fresh:
        peer.stop()
    return cell


def _stop(contestants: Iterable[Contestant]) -> None:
    for contestant in contestants:
        contestant.peer.stop()


def _summary(shape: Shape, cell: Cell) -> str:
    parts = [f"{cell.figures[row.figure]:>12,.{row.digits}f} {row.unit}" for row in shape.rows if row.figure in cell.figures]
    if "busy" in cell.figures:
        parts.append(f"generator {cell.figures['busy']:.0%} busy")
    return "  ".join(parts) + (f"  ! {cell.trouble}" if cell.trouble else "")


def median(cells: Iterable[Cell], shape: str, label: str, figure: str) -> float | None:
    """The median of the rounds, or None where no round has the figure."""
    values = [cell.figures[figure] for cell in cells if (cell.shape, cell.peer) == (shape, label) and figure in cell.figures]
    return statistics.median(values) if values else None
