"""The least number of nodes for a load, and what the database gets from them.

All nodes are alike and each is one process on one core. A node gets ``m`` messages a second, each for ``r`` recipients that are
connected anywhere. While one group is committed the next one gathers, so a group has all that came in the time of the one
before:

    T  = probes x probe + reads x read + writes x write (+ one write for the lanes) + the group's own processor time
    G  = 1 / T groups a second, or m where that is less (then each message is a group)
    k  = m / G messages in a group
    P  = G (n - 1) (1 - (1 - 1/n)^(k r)) parcels a second: of the other n - 1 nodes, those with one of k r recipients
    C  = m r (n - 1) / n messages carried in them
    L  = P / (1 + P t) looks a second, t = the read and the processor time of a look, or the least time from one look to the
         next: meanwhile more parcels come for the next

Processor time of a node in a second: G (group + tell) + m message + m r recipient + L look + P parcel + C carried + idle. What
it sends it also receives, as all are alike; a parcel's cost has both ends. The least ``n`` with that below ``load`` of a core
is the answer. Operations, documents and bytes follow from the same costs.

Assumed, not measured: the times of a replica set, and what one shard takes. That work spreads evenly over shards follows
from the shard keys; a single hot topic or inbox does not, and has its own limit: one group in ``write + read`` at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.cluster.costs import Cost, expected
from bench.sizing.figures import Figures

MOST_NODES = 1000
"""Message ids have room for 1,024 numbers of nodes; a dead node's number rests for hours."""
BETWEEN_LOOKS_MS = 5.0
"""What `storage.mongo.lanes` waits."""
_PAYLOAD = 128
"""Bytes, in the measured costs."""


class NoPlan(Exception):
    """No number of nodes carries the load; the text says what stands in the way."""


@dataclass(frozen=True)
class Assumptions:
    """What the figures do not say. Times in ms of one answer; ``load``: of a core, as more makes latency rise."""

    probe_ms: float = 4.0
    """A linearizable read: it waits for a majority, as a write does."""
    write_ms: float = 4.0
    """``w: majority, j: true`` in a replica set of three in one region, on NVMe."""
    read_ms: float = 1.0
    load: float = 0.6
    speed: float = 1.0
    """How many times as fast as the measured one a core is."""
    cores: int = 16
    """Of a machine that runs nodes; one is left to the system."""
    payload: int = 128
    between_looks_ms: float = BETWEEN_LOOKS_MS
    """From one look of a node to the next, at least."""
    shard_documents: float = 20_000.0
    """Written a second, by one shard: a replica set of three machines with 16 cores, 64 GB of memory and NVMe."""
    shard_bytes: float = 100e6
    """To one shard a second."""


@dataclass(frozen=True)
class Load:
    """``messages`` a second to all nodes together, each for ``recipients`` inboxes."""

    messages: float
    recipients: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Of one node: ``groups``, ``parcels``, ``carried`` and ``looks`` a second, and ``busy``, the share of a core."""

    load: Load
    nodes: int
    group: float
    """Messages in a group."""
    groups: float
    parcels: float
    carried: float
    looks: float
    busy: float
    database: Cost
    """A second, by all nodes; ``cpu_us`` is theirs."""
    machines: int
    shards: int

    @property
    def messages(self) -> float:
        """Of one node, a second."""
        return self.load.messages / self.nodes


def waits_ms(figures: Figures, assumed: Assumptions, nodes: int) -> float:
    """What a group waits for the database."""
    trips = figures.trips
    lanes = assumed.write_ms if nodes > 1 else 0.0
    return trips.probes * assumed.probe_ms + trips.reads * assumed.read_ms + trips.writes * assumed.write_ms + lanes


def node(load: Load, nodes: int, figures: Figures, assumed: Assumptions) -> Plan:
    """The load on so many nodes, whether they carry it or not."""
    costs, recipients = figures.costs, load.recipients
    messages = load.messages / nodes
    each = (costs.message.cpu_us + recipients * costs.recipient.cpu_us) / assumed.speed / 1e6
    fixed = waits_ms(figures, assumed, nodes) / 1e3 + (costs.group + costs.tell).cpu_us / assumed.speed / 1e6
    # T = fixed + k each, and k = m T: so T = fixed / (1 - m each), as long as the processor is not all taken.
    free = max(1e-6, 1 - messages * each)
    groups = min(messages, free / fixed)
    group = messages / groups
    hit = 1 - (1 - 1 / nodes) ** (group * recipients)
    parcels = groups * (nodes - 1) * hit
    carried = messages * recipients * (nodes - 1) / nodes
    looked = max(assumed.read_ms / 1e3 + costs.look.cpu_us / assumed.speed / 1e6, assumed.between_looks_ms / 1e3)
    looks = parcels / (1 + parcels * looked)
    tells = groups if nodes > 1 else 0.0
    total = expected(costs, (groups, messages, messages * recipients, tells, looks, parcels, carried)) + costs.idle
    busy = total.cpu_us / assumed.speed / 1e6
    more = (assumed.payload - _PAYLOAD) * (messages + carried) * nodes
    database = total * nodes + Cost(sent=more, received=(assumed.payload - _PAYLOAD) * carried * nodes)
    shards = max(1, math.ceil(database.documents / assumed.shard_documents), math.ceil(database.sent / assumed.shard_bytes))
    machines = math.ceil(nodes / max(1, assumed.cores - 1))
    return Plan(load, nodes, group, groups, parcels, carried, looks, busy, database, machines, shards)


def plan(load: Load, figures: Figures, assumed: Assumptions) -> Plan:
    """The least number of nodes. Raises `NoPlan`."""
    if load.messages <= 0 or load.recipients < 0:
        raise NoPlan(f"{load.messages:g} messages a second for {load.recipients:g} recipients: there must be some")
    for nodes in range(1, MOST_NODES + 1):
        found = node(load, nodes, figures, assumed)
        if found.busy <= assumed.load:
            return found
    raise NoPlan(
        f"{load.messages:,.0f} messages a second for {load.recipients:g} recipients: {MOST_NODES} nodes are the most, and "
        f"each would be {found.busy:.0%} of a core busy, above {assumed.load:.0%}"
    )


def hot_groups(assumed: Assumptions) -> float:
    """Groups a second on one inbox, or one topic: each reads the head and inserts, and the next one waits for it."""
    return 1000 / (assumed.read_ms + assumed.write_ms)
