"""The cluster's figures as text. Of several rounds: medians of rates and times, sums of what was counted."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from bench.cluster.cells import POINTS, Cell
from bench.cluster.costs import Cost, Costs, Lanes, NotMeasured, at_rest, expected, idle, sizes, solve, used
from bench.cluster.writing import SIZE, WRITERS, Writing
from bench.table import columns

CPU_TARGET = 12.0
"""Microseconds of a node's processor for a message, in large groups."""
BEHIND_TARGET = {False: 50.0, True: 20.0}
"""Milliseconds from the ack to the delivery on another node, p99: by polling, and with change streams."""
_TITLES = {(point.name, point.nodes): point.title for point in POINTS}


def streams(cells: Sequence[Cell]) -> bool:
    """Whether the nodes heard by change streams: they have asked for them."""
    return any(key.startswith(("getMore", "aggregate lanes")) for cell in cells for key in cell.tally)


def report(cells: Sequence[Cell], lanes: Lanes, writings: Sequence[Writing]) -> str:
    """All of it."""
    parts = [_throughput(cells), _latency(cells)]
    try:
        found = solve(cells, lanes)
    except NotMeasured as error:
        parts.append(f"costs: not measured: {error}")
    else:
        parts += [_growth(cells, found), costs(found)]
        parts[-1] += "\nCPU: of all nodes that take part. Operations and documents (written or removed): of the database."
    parts += [writers(writings), _targets(cells, lanes), _troubles(cells, writings)]
    return "\n\n".join(part for part in parts if part)


def _of(cells: Sequence[Cell], name: str, nodes: int, *, counted: bool) -> list[Cell]:
    return [cell for cell in cells if (cell.name, cell.nodes, cell.counted) == (name, nodes, counted) and cell.messages]


def _median(cells: Sequence[Cell], figure: str) -> float | None:
    values = [cell.figures[figure] for cell in cells if figure in cell.figures]
    return statistics.median(values) if values else None


def _net(some: Sequence[Cell], cells: Sequence[Cell]) -> Cost:
    """What some cells used, less what their nodes use when nothing happens."""
    return sum((used(cell, at_rest(cells)) for cell in some), Cost())


def _throughput(cells: Sequence[Cell]) -> str:
    """Rates directly; what a message costs, through the proxy."""
    rows = [["nodes, subscriber", "messages/s", "in a group", "operations", "... a group", "bytes to", "from", "CPU us"]]
    for nodes in (1, 2, 3):
        for name in ("here", "away", "single"):
            counted = _of(cells, name, nodes, counted=True)
            messages, groups = sum(cell.messages for cell in counted), sum(cell.groups for cell in counted)
            if not groups:
                continue
            rate = _median(_of(cells, name, nodes, counted=False), "rate")
            net = _net(counted, cells)
            line = [f"{nodes}, {_TITLES[name, nodes]}", f"{rate:,.0f}" if rate else "-", f"{messages / groups:.1f}"]
            line += [f"{net.operations / messages:.3f}", f"{net.operations / groups:.1f}"]
            line += [f"{net.sent / messages:,.0f}", f"{net.received / messages:,.0f}", f"{net.cpu_us / messages:,.0f}"]
            rows.append(line)
    note = (
        "2 publishers a node, window 64, 128 bytes, QoS 1, a durable subscriber each; rates without the counting proxy.\n"
        "Operations, bytes and CPU (of all nodes together) for each message, less what nodes use with nothing to do."
    )
    return f"{columns(rows)}\n{note}"


def _latency(cells: Sequence[Cell]) -> str:
    rows = [["ms", "ack, p50", "p99", "from ack to delivery, p50", "p99", "messages"]]
    for name in ("next", "rare"):
        for nodes in (1, 2, 3):
            some = _of(cells, name, nodes, counted=False)
            if not some:
                continue
            line = [f"{nodes} node(s), {_TITLES[name, nodes]}"]
            line += [f"{_median(some, figure) or 0:.1f}" for figure in ("ack_p50", "ack_p99", "behind_p50", "behind_p99")]
            rows.append([*line, f"{sum(cell.messages for cell in some):,.0f}"])
    how = "by change streams" if streams(cells) else "by polling: this server has no change streams"
    return f"{columns(rows)}\nNodes hear from each other {how}." if len(rows) > 1 else ""


def _growth(cells: Sequence[Cell], found: Costs) -> str:
    """Whether more nodes make the same work dearer: what was used, over what the costs say for these groups and messages."""
    rows = [["used, of what the costs say", "CPU", "operations", "documents", "bytes to", "from"]]
    for name in ("here", "away", "single"):
        for nodes in (1, 2, 3):
            some = [cell for cell in _of(cells, name, nodes, counted=True) if not cell.trouble]
            if not some:
                continue
            said = sum((expected(found, sizes(cell)) for cell in some), Cost())
            real = _net(some, cells)
            shares = [f"{a / b:.0%}" if b else "-" for a, b in zip(real.values, said.values, strict=True)]
            rows.append([f"{nodes} node(s), {_TITLES[name, nodes]}", *shares])
    for nodes in (1, 2, 3):
        some = [cell for cell in cells if cell.name == "idle" and cell.nodes == nodes and cell.seconds]
        if some:
            each = idle(some)
            shares = [f"{a / b:.0%}" if b else "-" for a, b in zip(each.values, found.idle.values, strict=True)]
            rows.append([f"{nodes} node(s), nothing to do, each", *shares])
    return columns(rows)


def costs(given: Costs) -> str:
    """Of each thing."""
    said = {
        "a group": given.group,
        "a message": given.message,
        "... a recipient of it": given.recipient,
        "a group's telling of other nodes": given.tell,
        "a look at what others tell": given.look,
        "... a parcel of one group to one node": given.parcel,
        "... a message carried in it": given.carried,
        "a node with nothing to do, a second": given.idle,
    }
    rows = [["cost of", "CPU us", "operations", "documents", "bytes to", "from"]]
    for title, cost in said.items():
        cells = (
            f"{cost.cpu_us:,.1f}",
            f"{cost.operations:.2f}",
            f"{cost.documents:.2f}",
            f"{cost.sent:,.0f}",
            f"{cost.received:,.0f}",
        )
        rows.append([title, *cells])
    return columns(rows)


def writers(writings: Sequence[Writing]) -> str:
    """Groups a second on one inbox and on separate ones."""
    rows = [
        [
            "writers",
            "one inbox: groups/s",
            "each",
            "longest ms",
            "CPU us",
            "an inbox each: groups/s",
            "each",
            "longest ms",
            "CPU us",
        ]
    ]
    for count in WRITERS:
        line = [str(count)]
        for one_inbox in (True, False):
            some = [writing for writing in writings if (writing.writers, writing.one_inbox) == (count, one_inbox)]
            some = [writing for writing in some if writing.groups]
            line += _fared(some) if some else ["-"] * 4
        rows.append(line)
    note = f"Storage alone, a process for each writer, groups of {SIZE} messages; CPU of a writer for each message."
    return f"{columns(rows)}\n{note}" if writings else ""


def _fared(some: Sequence[Writing]) -> list[str]:
    def median(of: Callable[[Writing], float]) -> float:
        return statistics.median(of(writing) for writing in some)

    each = f"{median(lambda one: one.fewest):.0f} to {median(lambda one: one.most):.0f}"
    rate = f"{median(lambda one: one.groups / one.seconds):,.0f}"
    return [rate, each, f"{median(lambda one: one.longest_ms):,.0f}", f"{median(lambda one: one.cpu_us):,.0f}"]


def _targets(cells: Sequence[Cell], lanes: Lanes) -> str:
    rows = [["target", "measured", ""]]
    bound = BEHIND_TARGET[streams(cells)]
    for name in ("next", "rare"):
        some = [cell for nodes in (2, 3) for cell in _of(cells, name, nodes, counted=False)]
        p99 = _median(some, "behind_p99")
        if p99 is not None:
            title = f"{_TITLES[name, 2]}: p99 behind the ack under {bound:g} ms"
            rows.append([title, f"{p99:.1f} ms", "reached" if p99 < bound else "MISSED"])
    try:
        cpu = solve(cells, lanes).message.cpu_us
    except NotMeasured:
        pass
    else:
        title = f"CPU in a node for one more message in a group at most {CPU_TARGET:g} us"
        rows.append([title, f"{cpu:.1f} us", "reached" if cpu <= CPU_TARGET else "MISSED"])
    return columns(rows) if len(rows) > 1 else ""


def _troubles(cells: Sequence[Cell], writings: Sequence[Writing]) -> str:
    said = [f"! {cell.nodes} node(s), {cell.name}: {cell.trouble}" for cell in cells if cell.trouble]
    said += [f"! {writing.writers} writers: {writing.trouble}" for writing in writings if writing.trouble]
    said += [f"! {w.writers} writers: {w.failed} commits failed, and were tried again" for w in writings if w.failed]
    return "\n".join(dict.fromkeys(said))


def disturbance(cells: Sequence[Cell]) -> str:
    """What else used the processors."""
    shares = sorted(cell.others for cell in cells if cell.seconds)
    return f"other processes used {statistics.median(shares):.0%} of one core (at most {shares[-1]:.0%})" if shares else ""
