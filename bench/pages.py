"""The tables of README.md and docs/performance.md that benchmarks fill: `python -m bench.pages` writes them anew.

They are made of measured.json, in which `python -m bench --pages` keeps what it measures before it does the same. A table
stands between ``<!-- bench: NAME -->`` and ``<!-- end -->``. What was not measured is a dash; a row side by side that nobody
has a figure for is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import bounds, table
from bench.kept import Kept
from bench.peers import PEERS
from bench.shapes import (
    BYTES,
    DRAIN,
    FAN_OUT,
    IDLE,
    IDLE_DEVICES,
    LATENCY,
    MANY,
    ONE,
    PAIRS,
    PAYLOADS,
    RULED,
    SEARCH,
    START,
    STORMS,
    Row,
    Shape,
)
from bench.table import OURS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
_BLOCK = re.compile(r"(?<=^<!-- bench: )(\w+) -->\n.*?(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)
_COLUMNS = (OURS, "tideline-pure", "mosquitto", "nats", "rabbitmq", "amqtt")
_GIB = 1 << 30


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, digits: int = 0, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.{digits}f}{' ' if unit else ''}{unit}"


def _said(kept: Kept, shapes: Sequence[Shape]) -> str:
    """By which commands, and on what."""
    commands = dict.fromkeys(kept.commands[shape.name] for shape in shapes if shape.name in kept.commands)
    machines = dict.fromkeys(kept.machines[shape.name] for shape in shapes if shape.name in kept.machines)
    said = ", ".join(f"`{command}`" for command in commands)
    return f"From {said}: {'; '.join(machines)}." if commands else "Not measured yet."


def speed(kept: Kept) -> str:
    """Everybody side by side."""
    lines: list[tuple[str, Shape, Row]] = []
    for shape in (ONE, PAIRS, FAN_OUT, RULED, LATENCY, MANY, DRAIN, IDLE, IDLE_DEVICES, *PAYLOADS[1:], *STORMS):
        wanted = {"rate", "ack_p50", "ack_p99", "kb"} - ({"ack_p99"} if shape is LATENCY else {"ack_p50"})
        for row in shape.rows:
            if row.figure in wanted | ({"ack_p50"} if shape is LATENCY else set()):
                title = row.title if "…" not in row.title else f"{shape.rows[0].title}: {row.title.strip('… ')}"
                lines.append((f"{title}, {row.unit}", shape, row))
    rows = [["when the PUBACK is sent", "**fsync'd in store and inboxes**", "**the same**"]]
    rows[0] += ["in memory", "in the OS's cache", "queued", "in memory"]
    for title, shape, row in lines:
        values = [kept.get(shape.name, peer, row.figure) for peer in _COLUMNS]
        if any(value is not None for value in values):
            rows.append([title, *(_number(value, row.digits) for value in values)])
    titles = ["Tideline, compiled", "in pure Python", *(PEERS[peer].title for peer in _COLUMNS[2:])]
    return _table(["", *titles], rows) + "\n\n" + _said(kept, [shape for _, shape, _ in lines]) + "\n"


def payloads(kept: Kept) -> str:
    """What a stream of each size is near the end of."""
    rows = []
    for shape in PAYLOADS:
        rate, mb, written = (kept.get(shape.name, OURS, figure) for figure in ("rate", "mb", "disk_mb"))
        whole = (kept.get(shape.name, peer, "mb") for peer in ("disk", "generator"))
        found = bounds.shares(kept.cells, shape.name, OURS)
        nearest = bounds.nearest(found) if found else "-"
        rows.append([shape.rows[0].title, *map(_number, (rate, mb, written, *whole)), nearest])
    head = ["", "messages/s", "MB/s", "MB/s written", "the bare disk's", "the echo's", "nearest bound"]
    return _table(head, rows) + "\n\n" + _said(kept, PAYLOADS) + "\n"


def aims(kept: Kept) -> str:
    """Each target: reached, missed, or not measured."""
    words = {"": "not measured", "MISSED": "**missed**"}
    rows = [[aim, got or "-", words.get(verdict, verdict)] for aim, got, verdict in table.judged(kept.cells)]
    return _table(["aim", "measured", ""], rows) + "\n"


def machine(kept: Kept) -> str:
    """What two cores hold, and which resource ends first."""

    def of(shape: Shape, figure: str) -> float | None:
        return kept.get(shape.name, OURS, figure)

    def stream(title: str, shape: Shape) -> list[str]:
        found = bounds.shares(kept.cells, shape.name, OURS)
        return [title, _number(of(shape, "rate")), bounds.nearest(found) if found else "-", shape.name]

    def within(title: str, whole: float, each: float | None, ends: str, shape: Shape) -> list[str]:
        """How many of ``each`` so much has room for."""
        return [title, _number(whole / each if each else None), ends, shape.name]

    kinds = tuple(zip(STORMS, ("plain", "TLS", "WebSocket"), strict=True))
    stored = [of(BYTES, kind) for kind in ("store", "inbox", "the rest")]
    history, found = sum(one for one in stored if one) or None, of(BYTES, "all")
    session, index = of(START, "session_bytes"), of(SEARCH, "indexer_us")
    rows = [
        stream("messages a second, one recipient each", PAIRS),
        stream("deliveries a second, ten recipients each", FAN_OUT),
        *(stream(f"{shape.rows[0].title}, messages a second", shape) for shape in PAYLOADS[1:]),
        *(
            within(
                f"connections in 1 GiB, {kind}",
                _GIB / 1024,
                of(storm, "kb"),
                f"memory, {_number(of(storm, 'kb'), 1)} KB each",
                storm,
            )
            for storm, kind in kinds
        ),
        *(
            [f"connects a second, {kind}", _number(of(storm, "core_rate")), "the broker's core", storm.name]
            for storm, kind in kinds
        ),
        within("durable sessions in 1 GiB, away", _GIB, session, f"memory, {_number(session)} bytes each", START),
        within("messages of 68 bytes in 100 GB", 100e9, history, f"disk, {_number(history)} bytes each", BYTES),
        within("the same, searchable", 100e9, found, f"disk, {_number(found)} bytes each", BYTES),
        within("messages a second, indexed", 1e6, index, f"the indexer's core, {_number(index)} µs each", SEARCH),
    ]
    lines = [[title, held, ends, f"`--only {name}`"] for title, held, ends, name in rows]
    return _table(["", "2 cores hold", "what ends first", "`python -m bench`"], lines) + "\n"


BLOCKS: dict[str, Callable[[Kept], str]] = {"speed": speed, "payloads": payloads, "aims": aims, "machine": machine}


def renewed(page: str, kept: Kept) -> str:
    """A page with its tables as they are now."""
    return _BLOCK.sub(lambda found: f"{found[1]} -->\n\n{BLOCKS[found[1]](kept)}\n", page)


def main() -> None:
    """Write them."""
    kept = Kept.read()
    for page in PAGES:
        page.write_text(renewed(page.read_text(encoding="utf-8"), kept), encoding="utf-8")


if __name__ == "__main__":
    main()
