"""This run beside the last release: ratios to whoever was measured in the same run, and what fell by more than the noise.

`bench/releases/` has a file for each release. A figure is never compared with one of another day: both are ratios to a peer of
their own run, or to its bare disk or echo where no broker is installed. A reference that got faster looks like our fall, so a
figure has fallen when it fell against most of its references.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.drive import Cell
from bench.shapes import APART, SHAPES, Row
from bench.table import OURS, better, columns

FOLDER = Path(__file__).with_name("releases")
LEAST_NOISE = 0.05
"""A run of a few rounds may look steadier than it is."""
UNKNOWN_NOISE = 0.25
"""Where there was one round only."""
_NOT_COMPARED = ("growth", "peak", "late_p99")
"""What says little of a release: differences of a few megabytes, and the generator's own lateness."""


class BadRelease(Exception):
    """A release's file cannot be used, or is not to be written; the text says why."""


@dataclass(frozen=True)
class Ratio:
    """How many ``times`` better than ``to`` we were in a figure of a shape: above 1 is better, whichever way it counts.

    ``noise`` is the range of the rounds' ratios, as a part of their median.
    """

    shape: str
    figure: str
    to: str
    times: float
    noise: float


@dataclass(frozen=True)
class Release:
    """What is kept of a run."""

    version: str
    build: str
    machine: str
    command: str
    ratios: tuple[Ratio, ...]

    def keep(self, path: Path) -> None:
        """Write it; with what the file has of other shapes, where it is of the same build: one run need not measure all."""
        kept = self
        if path.exists() and (before := Release.read(path)).build == self.build:
            measured = {ratio.shape for ratio in self.ratios}
            others = tuple(ratio for ratio in before.ratios if ratio.shape not in measured)
            command = "; ".join(dict.fromkeys((*before.command.split("; "), self.command)))
            kept = replace(self, command=command, ratios=others + self.ratios)
        kept.write(path)

    def write(self, path: Path) -> None:
        """As JSON, a ratio a line."""
        given = asdict(self)
        lines = ",\n  ".join(json.dumps(ratio) for ratio in given.pop("ratios"))
        head = json.dumps(given, indent=1).removesuffix("\n}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{head},\n "ratios": [\n  {lines}\n ]\n}}\n', encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Release:
        """Raises `BadRelease`."""
        try:
            given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**given, "ratios": tuple(Ratio(**one) for one in given["ratios"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRelease(f"{path}: {error}; `python -m bench --release VERSION` writes such a file") from error


def _rows() -> dict[tuple[str, str], Row]:
    kept = ((shape.name, row) for shape in (*SHAPES, *APART) for row in shape.rows if row.figure not in _NOT_COMPARED)
    return {(shape, row.figure): row for shape, row in kept}


def _rounds(cells: Iterable[Cell], shape: str, peer: str, figure: str) -> list[float | None]:
    return [cell.figures.get(figure) for cell in cells if (cell.shape, cell.peer) == (shape, peer)]


def noise(times: Sequence[float]) -> float:
    """Of the rounds' ratios."""
    if len(times) < 2:
        return UNKNOWN_NOISE
    return max(LEAST_NOISE, (max(times) - min(times)) / statistics.median(times))


def ratios(cells: Sequence[Cell]) -> tuple[Ratio, ...]:
    """To everybody who was measured beside us, round by round; other builds of ours are nobody."""
    found = []
    peers = dict.fromkeys(cell.peer for cell in cells if not cell.peer.startswith(OURS))
    for (shape, figure), row in _rows().items():
        ours = _rounds(cells, shape, OURS, figure)
        for peer in peers:
            theirs = _rounds(cells, shape, peer, figure)
            if len(theirs) == 1:  # the echo is measured once
                theirs *= len(ours)
            pairs = zip(ours, theirs, strict=False)
            times = [better(row, one, other) for one, other in pairs if one and other and one > 0 < other]
            if times:
                found.append(Ratio(shape, figure, peer, round(statistics.median(times), 4), round(noise(times), 4)))
    return tuple(found)


@dataclass(frozen=True)
class Change:
    """One ratio then and now. ``by`` is the part that it rose or, negative, fell."""

    then: Ratio
    now: Ratio

    @property
    def by(self) -> float:
        return self.now.times / self.then.times - 1

    @property
    def noise(self) -> float:
        """What the noisier of the two moves by itself."""
        return max(self.then.noise, self.now.noise)

    @property
    def fell(self) -> bool:
        return self.by < -self.noise


def changes(then: Iterable[Ratio], now: Iterable[Ratio]) -> dict[tuple[str, str], list[Change]]:
    """By shape and figure, a change for each reference that both runs have."""
    before = {(one.shape, one.figure, one.to): one for one in then}
    found: dict[tuple[str, str], list[Change]] = {}
    for one in now:
        if other := before.get((one.shape, one.figure, one.to)):
            found.setdefault((one.shape, one.figure), []).append(Change(other, one))
    return found


def fell(against: Sequence[Change]) -> bool:
    """Against most of the references."""
    return 2 * sum(change.fell for change in against) > len(against)


def table(last: Release, now: Sequence[Ratio], build: str) -> str:
    """A line for each figure, with the ratios to each reference then and now; then the names of what fell."""
    if last.build != build:
        return f"Not compared with {last.version}: that was measured with {last.build}, this with {build}."
    found = changes(last.ratios, now)
    if not found:
        return f"Not compared with {last.version}: this run has no figure, or nobody beside it, that it had."
    known, rows, down = _rows(), [["times better than", "reference", "then", "now", "change", "noise", ""]], []
    for key, against in found.items():
        row, last_said = known[key], ""
        title = row.title if not row.title.startswith("…") else f"{key[0]}: {row.title.strip('… ')} {row.unit}"
        for change in against:
            said = [f"{change.then.times:.2f}", f"{change.now.times:.2f}", f"{change.by:+.0%}", f"{change.noise:.0%}"]
            rows.append([title if not last_said else "", change.now.to, *said, "fell" if change.fell else ""])
            last_said = title
        if fell(against):
            down.append(f"FELL {title}: against {sum(one.fell for one in against)} of {len(against)}")
    verdict = "\n".join(down) or "Nothing fell by more than the noise against most of its references."
    return f"Compared with {last.version} ({last.machine})\n\n{columns(rows)}\n\n{verdict}"


def newest(folder: Path = FOLDER) -> Release | None:
    """The file with the highest version; None where there is none. Raises `BadRelease`."""

    def version(path: Path) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in path.stem.split("."))
        except ValueError:
            raise BadRelease(f"{path}: a release's file is called by its version, such as 1.2.0.json") from None

    files = sorted(folder.glob("*.json"), key=version)
    return Release.read(files[-1]) if files else None


def checked_version(text: str) -> str:
    """A version as `newest` can order it. Raises `ValueError`."""
    parts = text.split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"{text!r} must be a version such as 1.2.0")
    return text
