"""What is measured of nodes over one database: the points, and what each says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import process
from bench.cluster.nodes import Running, running
from bench.cluster.proxy import Tally
from bench.drive import Options, generate, unique
from bench.peers.mongo import Mongo
from bench.rounds import say

IDLE_SECONDS = 2.0
_WATCHING = ("hello", "ismaster", "isMaster", "ping", "endSessions")
"""What the driver says by itself to see whether the server is there."""


@dataclass(frozen=True)
class Point:
    """One kind of load on a cluster of ``nodes``; its sizes are those of `bench.load.Spec`, ``pairs`` for each node.

    ``counted``: through the proxy, for what the database is asked; else directly, for the clock.
    """

    name: str
    title: str
    nodes: int
    load: str
    counted: bool = False
    pairs: int = 2
    fan: int = 1
    apart: int = 0
    pause: float = 0.0
    longer: int = 1
    """So many times as long as the others."""


def _points() -> list[Point]:
    points: list[Point] = []
    for nodes in (1, 2, 3):
        for counted in (False, True):
            points.append(Point("here", "subscriber on the same node", nodes, "stream", counted))
            if nodes > 1:
                points.append(Point("away", "subscriber on another node", nodes, "stream", counted, apart=1))
        if nodes == 1:
            points.append(Point("single", "one message at a time", nodes, "behind", True, pairs=1))
            points.append(Point("fan", "10 subscribers on the same node", nodes, "stream", True, fan=10))
            points.append(Point("next", "one at a time, the same node", nodes, "behind", pairs=1))
        else:
            points.append(Point("single", "one at a time, to another node", nodes, "behind", True, pairs=1, apart=1))
            points.append(Point("next", "one at a time, to another node", nodes, "behind", pairs=1, apart=1))
            points.append(
                Point("rare", "now and then, to another node", nodes, "behind", pairs=1, apart=1, pause=0.3, longer=4)
            )
    return points


POINTS = _points()


@dataclass
class Cell:
    """What came out of a point, or of ``idle`` nodes (``seconds`` of them). ``cpu``: processor seconds of all nodes together.

    ``tally`` is what they asked of the database together, without what the driver says by itself.
    """

    name: str
    nodes: int
    counted: bool
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0
    tally: Tally = field(default_factory=dict)
    others: float = 0.0
    """Cores that other processes used meanwhile."""
    trouble: str = ""

    @property
    def messages(self) -> float:
        """Acknowledged between the marks."""
        return self.figures.get("acked", 0.0)

    @property
    def groups(self) -> int:
        """Groups that stored something."""
        return sum(self.tally.get(command, [0])[0] for command in ("insert store", "bulkWrite"))

    @property
    def asked(self) -> tuple[int, int, int, int]:
        """Operations, documents written, bytes to the database, bytes back."""
        totals = [sum(counts[at] for counts in self.tally.values()) for at in range(4)]
        return totals[0], totals[1], totals[2], totals[3]


def measure(mongo: Mongo, rounds: int, options: Options, points: Sequence[Point] = tuple(POINTS)) -> list[Cell]:
    """Every point in each round; nodes are started once for all points of one number of nodes, on a new database."""
    cells: list[Cell] = []
    for _ in range(rounds):
        for nodes in sorted({point.nodes for point in points}):
            for counted in (False, True):
                some = [point for point in points if (point.nodes, point.counted) == (nodes, counted)]
                if not some:
                    continue
                with running(mongo, nodes, counted=counted) as cluster:
                    if counted:
                        cells.append(_idle(cluster))
                    for point in some:
                        cell = _point(point, cluster, options)
                        cells.append(cell)
                        say(f"  {nodes} node(s), {point.title}{', counted' if counted else ''}: {_summary(cell)}")
    return cells


def _idle(cluster: Running) -> Cell:
    """Nodes with nothing to do."""
    time.sleep(1.0)  # what starting left to do
    watch = _Watch(cluster)
    watch.mark("loading")
    time.sleep(IDLE_SECONDS)
    watch.mark("loaded")
    return watch.cell("idle", counted=True)


def _point(point: Point, cluster: Running, options: Options) -> Cell:
    ports = [node.port for node in cluster.nodes]
    pairs = point.pairs * point.nodes
    spec: dict[str, object] = {"shape": point.load, "port": ports[0], "ports": ports, "run": unique(), "pairs": pairs}
    spec |= {"seconds": options.seconds * point.longer, "fan": point.fan, "apart": point.apart, "pause": point.pause}
    if options.core is not None:
        spec["core"] = options.core
    watch = _Watch(cluster)
    answer = generate(spec, watch.mark, 120.0)
    cell = watch.cell(point.name, counted=point.counted)
    if "trouble" in answer:
        cell.trouble = "; ".join([str(answer["trouble"]), *cluster.last_words()])
        return cell
    cell.figures = answer["figures"]
    if missing := cell.figures["expected"] - cell.figures["delivered"]:
        cell.trouble = f"{missing:+,.0f} of {cell.figures['expected']:,.0f} deliveries are missing"
    elif cell.figures["misordered"]:
        cell.trouble = f"{cell.figures['misordered']:,.0f} out of order"
    return cell


class _Watch:
    """What the nodes used between the marks ``loading`` and ``loaded``."""

    def __init__(self, cluster: Running) -> None:
        self._cluster = cluster
        self._marks: dict[str, tuple[float, float, Tally, float]] = {}

    def mark(self, name: str) -> None:
        """Look at clock, processor time, and what was asked of the database."""
        cluster = self._cluster
        known = sum(process.cpu_seconds(node.pid) for node in cluster.nodes) + process.own_cpu_seconds()
        known += sum(process.cpu_seconds(pid) for pid in cluster.helpers())
        others = process.machine_cpu_seconds() - known
        self._marks[name] = (time.perf_counter(), sum(cluster.cpu()), _sum(cluster.tallies()), others)

    def cell(self, name: str, *, counted: bool) -> Cell:
        """What lies between; nothing where a mark is missing."""
        cell = Cell(name, len(self._cluster.nodes), counted)
        if len(self._marks) == 2:
            (began, cpu, tally, others), (ended, cpu_then, tally_then, others_then) = self._marks.values()
            cell.seconds, cell.cpu = ended - began, cpu_then - cpu
            cell.others = max(0.0, (others_then - others) / cell.seconds)
            for key, counts in tally_then.items():
                change = [after - before for after, before in zip(counts, tally.get(key, [0] * 4), strict=True)]
                if change[0] and key.partition(" ")[0] not in _WATCHING:
                    cell.tally[key] = change
        return cell


def _sum(tallies: Sequence[Tally]) -> Tally:
    total: dict[str, Counter[int]] = {}
    for tally in tallies:
        for key, counts in tally.items():
            total.setdefault(key, Counter()).update(dict(enumerate(counts)))
    return {key: [counts[at] for at in range(4)] for key, counts in total.items()}


def _summary(cell: Cell) -> str:
    parts = []
    if "rate" in cell.figures:
        parts.append(f"{cell.figures['rate']:,.0f} deliveries/s")
    if "behind_p50" in cell.figures:
        parts.append(f"behind the ack p50 {cell.figures['behind_p50']:.1f}, p99 {cell.figures['behind_p99']:.1f} ms")
    if cell.messages:
        parts.append(f"{cell.cpu / cell.messages * 1e6:.0f} us a message")
    if cell.groups:
        parts.append(f"{cell.asked[0] / cell.groups:.1f} operations a group of {cell.messages / cell.groups:.1f}")
    return ", ".join(parts) + (f"  ! {cell.trouble}" if cell.trouble else "")
