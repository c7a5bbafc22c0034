"""Figures as text: medians of the rounds, ratios to Tideline, targets, and notes on everything that is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.drive import Cell
from bench.rounds import median
from bench.shapes import APART, SHAPES, TARGETS, Row, Target

OURS = "tideline"


def columns(rows: Sequence[Sequence[str]], *, ruled: int = 1) -> str:
    """Rows of text with the first column left, the others right aligned, a rule after the first ``ruled`` rows."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
        if number == ruled - 1:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def better(row: Row, ours: float, theirs: float) -> float:
    """How many times better ours is: above 1 is better, whichever way the figure counts."""
    above, below = (ours, theirs) if row.more_is_better else (theirs, ours)
    return above / below if below else float("inf")


def figures(cells: Sequence[Cell], labels: Sequence[str], titles: Mapping[str, str]) -> str:
    """The main table. ``×`` is how many times better Tideline is; ``!`` marks a figure with a note."""
    noted = {(cell.shape, cell.peer) for cell in cells if cell.trouble}
    head = ["", "", *(titles[label] for label in labels)]
    body = []
    for shape in SHAPES:
        if not any(cell.shape == shape.name for cell in cells):
            continue
        for row in shape.rows:
            line = [row.title, row.unit]
            ours = median(cells, shape.name, OURS, row.figure)
            for label in labels:
                value = median(cells, shape.name, label, row.figure)
                mark = "!" if (shape.name, label) in noted else ""
                line.append(_cell(row, ours, value, label) + mark if value is not None else mark or "-")
            body.append(line)
    return columns([head, *body])


def _cell(row: Row, ours: float | None, value: float, label: str) -> str:
    text = f"{value:,.{row.digits}f}"
    if label == OURS or ours is None or value <= 0 or ours <= 0:
        return text
    return f"{text} ×{better(row, ours, value):.2f}"


def cpu_change(cells: Iterable[Cell], shape: str, base: str, other: str) -> str:
    """How much more processor time a delivery takes the broker; less noisy than the rates on a machine that is shared."""
    kept = list(cells)
    before, after = (median(kept, shape, label, "cpu_us") for label in (base, other))
    return f"{(after / before - 1) * 100:+.1f} %" if before and after else "-"


def troubles(cells: Iterable[Cell]) -> str:
    """One line for everything that a ``!`` stands for."""
    seen: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.trouble and cell.trouble not in (said := seen.setdefault((cell.peer, cell.shape), [])):
            said.append(cell.trouble)
    by_text: dict[tuple[str, str], list[str]] = {}
    for (peer, shape), said in seen.items():
        by_text.setdefault((peer, "; ".join(said)), []).append(shape)
    return "\n".join(f"! {peer} ({', '.join(shapes)}): {text}" for (peer, text), shapes in by_text.items())


def judged(cells: Sequence[Cell]) -> list[tuple[str, str, str]]:
    """Each target: what it is, what was measured, and whether it is reached; empty where these cells can't judge it."""
    lines = []
    for target in TARGETS:
        title = f"{_row(target).title.replace('…', f'{target.shape}:')}: {target.text}"
        found = _judge(cells, target)
        ok, got = found or (False, "")
        lines.append((title, got, "" if found is None else "reached" if ok else "MISSED"))
    return lines


def targets(cells: Sequence[Cell]) -> str:
    """Those that can be judged, as a table."""
    lines = [line for line in judged(cells) if line[2]]
    return columns([("target", "measured", ""), *lines]) if lines else ""


def _row(target: Target) -> Row:
    shape = next(shape for shape in (*SHAPES, *APART) if shape.name == target.shape)
    return next(row for row in shape.rows if row.figure == target.figure)


def _judge(cells: Sequence[Cell], target: Target) -> tuple[bool, str] | None:
    row = _row(target)
    ours = median(cells, target.shape, target.by, target.figure)
    if ours is None:
        return None
    if not target.peer:
        reached = ours >= target.bound if row.more_is_better else ours <= target.bound
        return reached, f"{ours:,.{row.digits}f} {row.unit}".strip()
    theirs = median(cells, target.shape, target.peer, target.figure)
    if not theirs:
        return None
    ratio = better(row, ours, theirs)
    times = ratio if row.more_is_better else 1 / ratio
    return ratio >= target.bound, f"{times:.2f} times"


def busiest(cells: Iterable[Cell]) -> str:
    """How near the generator came to its own limit."""
    busy = [(cell.figures["busy"], cell) for cell in cells if "busy" in cell.figures and cell.peer != "generator"]
    if not busy:
        return ""
    share, cell = max(busy, key=lambda pair: pair[0])
    ours = [share for share, cell in busy if cell.peer == OURS]
    own = f"; with Tideline at most {max(ours):.0%}" if ours else ""
    return f"The generator was busy for at most {share:.0%} of one core ({cell.peer}, {cell.shape}){own}."


def disturbance(cells: Iterable[Cell]) -> str:
    """What else used the processors while the cells were measured."""
    shares = sorted(cell.figures["others"] for cell in cells if "others" in cell.figures)
    if not shares:
        return ""
    median = shares[len(shares) // 2]
    warning = " Take a quieter machine before you trust these figures." if median > 0.2 else ""
    return f"Other processes used {median:.0%} of one core (median of the cells; at most {shares[-1]:.0%}).{warning}"
