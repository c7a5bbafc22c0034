"""What a group, a message, a recipient and what nodes tell each other cost, worked out from the cells.

Whatever a cell used, less what its nodes use when nothing happens, is

    groups x ``group`` + messages x ``message`` + recipients x ``recipient``
    + groups that tell x ``tell`` + looks x ``look`` + parcels x ``parcel`` + carried x ``carried``

``recipient``: an inbox entry and its delivery. ``tell``: a group's one insert for all other nodes that it concerns. ``look``: a
node's find, and its removal of what it has read. ``parcel``: what one group has for one other node, written, read and removed.
``carried``: a message in it for one recipient.

Three points without parcels give the first three: one message in each group, many in each group, many with ten recipients each.
With the subscriber on another node, one message in each group and many, a parcel comes with one insert and one look of its
own: that gives their sum, and `bench.storage_lanes` says which part of it comes once however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

from bench.cluster.cells import Cell
from bench.cluster.proxy import PROBE


@dataclass(frozen=True)
class Cost:
    """Of nodes together: processor microseconds; of the database: operations, documents written or removed, bytes."""

    cpu_us: float = 0.0
    operations: float = 0.0
    documents: float = 0.0
    sent: float = 0.0
    received: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self.values, other.values, strict=True)))

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1

    def __mul__(self, times: float) -> Cost:
        return Cost(*(value * times for value in self.values))

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of the fields."""
        return astuple(self)

    @property
    def floored(self) -> Cost:
        """Nothing is below zero: what noise makes negative costs nothing that could be measured."""
        return Cost(*(max(0.0, value) for value in self.values))


@dataclass(frozen=True)
class Costs:
    """See the module. ``idle``: of one node in one second."""

    group: Cost
    message: Cost
    recipient: Cost
    tell: Cost
    look: Cost
    parcel: Cost
    carried: Cost
    idle: Cost

    @classmethod
    def read(cls, given: Mapping[str, Mapping[str, float]]) -> Costs:
        """From JSON, as `dataclasses.asdict` makes it. Raises `ValueError` where it says something else."""
        names = [field.name for field in fields(cls)]
        if sorted(given) != sorted(names):
            raise ValueError(f"costs of {', '.join(sorted(given)) or 'nothing'}: they must be of {', '.join(names)}")
        try:
            return cls(*(Cost(**given[name]) for name in names))
        except TypeError as error:
            raise ValueError(f"costs: {error}") from error


@dataclass(frozen=True)
class Lanes:
    """Microseconds of a node's processor, as `bench.storage_lanes` measures them.

    ``tell`` and ``look``: once, to however many nodes and of however many; ``sent`` and ``read``: more for each of them.
    """

    tell: float
    look: float
    sent: float
    read: float


class NotMeasured(Exception):
    """A point is missing, or has no figures that can be trusted; the text says which."""


def used(cell: Cell, resting: Sequence[Cell] = ()) -> Cost:
    """All of a cell, less what its nodes would have asked meanwhile with nothing to do, and its share of processor time.

    A node that is busy asks less often whether there is something to do, so no more is taken off than it asked, nor what is its
    work for sure (`_work`).
    """
    total = [0.0] * 4
    off = 0.0
    idle_seconds = sum(other.seconds * other.nodes for other in resting)
    for key, counts in cell.tally.items():
        often = sum(other.tally.get(key, [0])[0] for other in resting) / idle_seconds if idle_seconds else 0.0
        idle = min(often * cell.seconds * cell.nodes, max(0, counts[0] - _work(cell, key)))
        off += idle
        total = [before + value * (1 - idle / counts[0]) for before, value in zip(total, counts, strict=True)]
    asked = sum(other.asked[0] for other in resting)
    cpu = cell.cpu - (off * sum(other.cpu for other in resting) / asked if asked else 0.0)
    return Cost(cpu * 1e6, *total)


def _work(cell: Cell, key: str) -> int:
    """How often this was asked for work, of what is asked with nothing to do as well.

    A group probes the routes twice at most, and a look at the lanes that found something is followed by a removal.
    """
    if key.endswith(PROBE):
        return min(cell.tally[key][0], 2 * cell.groups)
    return cell.tally.get("delete lanes", [0])[0] if key == "find lanes" else 0


@dataclass(frozen=True)
class Trips:
    """How often a group with one message waits for the database, as though one after the other."""

    probes: float
    """Linearizable reads of the routes."""
    reads: float
    writes: float


def trips(cells: Sequence[Cell]) -> Trips:
    """Of the points with one message in each group and one node, without what a node asks when nothing happens."""
    some = [cell for cell in cells if cell.counted and cell.name == "single" and cell.nodes == 1 and cell.groups]
    resting = [cell for cell in cells if cell.name == "idle" and cell.nodes == 1 and cell.seconds]
    if not some or not resting:
        raise NotMeasured("single with 1 node(s)")
    groups = sum(cell.groups for cell in some)
    counts = dict.fromkeys(("probes", "reads", "writes"), 0.0)
    for cell in some:
        for key, (often, written, *_) in cell.tally.items():
            if key.endswith(PROBE):
                counts["probes"] += _work(cell, key)
            elif not any(key in one.tally for one in resting):
                counts["writes" if written else "reads"] += often
    return Trips(*(max(0.0, counts[name] / groups) for name in counts))


def parcels(cell: Cell) -> int:
    """How many a cell's nodes sent each other."""
    return cell.tally.get("insert lanes", [0, 0])[1]


def sizes(cell: Cell) -> tuple[float, ...]:
    """Groups, messages, recipients, groups that tell, looks, parcels, messages carried: where there are parcels, all are."""
    sent, delivered = parcels(cell), cell.figures.get("delivered", 0.0)
    tells, looks = cell.tally.get("insert lanes", [0])[0], cell.tally.get("delete lanes", [0])[0]
    return cell.groups, cell.messages, delivered, tells, looks, sent, delivered if sent else 0.0


def expected(costs: Costs, counts: Sequence[float]) -> Cost:
    """What so much costs, in the order of `sizes`."""
    kinds = (costs.group, costs.message, costs.recipient, costs.tell, costs.look, costs.parcel, costs.carried)
    return sum((kind * count for kind, count in zip(kinds, counts, strict=True)), Cost())


def at_rest(cells: Iterable[Cell]) -> list[Cell]:
    """The cells of nodes with nothing to do."""
    return [cell for cell in cells if cell.name == "idle" and cell.seconds]


def idle(cells: Iterable[Cell]) -> Cost:
    """Of one node in one second, over all numbers of nodes."""
    some = at_rest(cells)
    if not some:
        raise NotMeasured("idle nodes")
    total = sum((used(cell) for cell in some), Cost())
    return total * (1 / sum(cell.seconds * cell.nodes for cell in some))


def solve(cells: Sequence[Cell], lanes: Lanes) -> Costs:
    """The costs. Raises `NotMeasured`."""
    here = [_total(cells, name, (1,)) for name in ("single", "here", "fan")]
    group, message, recipient = (
        cost.floored for cost in _solve([counts[:3] for counts, _ in here], [cost for _, cost in here])
    )
    rows, rights = [], []
    for name in ("single", "away"):
        counts, cost = _total(cells, name, (2, 3))
        if not counts[5]:
            raise NotMeasured("parcels between nodes")
        rows.append(counts[5:])
        rights.append(cost - (group * counts[0] + message * counts[1] + recipient * counts[2]))
    whole, carried = (cost.floored for cost in _solve(rows, rights))
    each = min(whole.cpu_us, lanes.sent + lanes.read)
    share = lanes.tell / (lanes.tell + lanes.look) if lanes.tell + lanes.look else 0.5
    tell = Cost((whole.cpu_us - each) * share, min(1.0, whole.operations))
    look = Cost((whole.cpu_us - each) * (1 - share), whole.operations - tell.operations)
    parcel = Cost(each, 0.0, whole.documents, whole.sent, whole.received)
    return Costs(group, message, recipient, tell, look, parcel, carried, idle(cells))


def _total(cells: Sequence[Cell], name: str, nodes: tuple[int, ...]) -> tuple[list[float], Cost]:
    """The `sizes` of a point in all rounds, and what they cost."""
    some = [cell for cell in cells if cell.counted and cell.name == name and cell.nodes in nodes and not cell.trouble]
    some = [cell for cell in some if cell.groups]
    if not some:
        raise NotMeasured(f"{name} with {' or '.join(map(str, nodes))} node(s)")
    counts = [sum(column) for column in zip(*map(sizes, some), strict=True)]
    cost = sum((used(cell, at_rest(cells)) for cell in some), Cost())
    return counts, cost


def _solve(rows: Sequence[Sequence[float]], rights: Sequence[Cost]) -> list[Cost]:
    """As many equations as unknowns, by elimination; the largest pivot first, as counts differ by a thousand times."""
    left, right = [list(row) for row in rows], list(rights)
    for at in range(len(left)):
        best = max(range(at, len(left)), key=lambda row: abs(left[row][at]))
        left[at], left[best], right[at], right[best] = left[best], left[at], right[best], right[at]
        if not left[at][at]:
            raise NotMeasured("groups of different sizes")
        for row in range(len(left)):
            if row != at and (factor := left[row][at] / left[at][at]):
                left[row] = [value - factor * pivot for value, pivot in zip(left[row], left[at], strict=True)]
                right[row] = right[row] - right[at] * factor
    return [cost * (1 / left[at][at]) for at, cost in enumerate(right)]
