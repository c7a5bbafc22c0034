"""One node of a plan in virtual time: messages come at random, and so does each answer of the database.

Arrivals are a Poisson process. An answer takes a log-normal time with the assumed one as its median and a spread of 0.5, so one
in a hundred takes three times as long. The node's processor has one thing at a time to do; what other nodes send it slows
its groups by their share. A receiver that polls looks again after 5 ms (while it is busy; 25 ms where nothing came for
long); one with a change stream is told after one read's time, and waits only where it has just taken something.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

from bench.sizing.figures import Figures
from bench.sizing.model import Assumptions, Plan

_NORMAL = NormalDist(0, 0.5)
_MOST = 200_000
"""Messages that are simulated at most."""


@dataclass(frozen=True)
class Latency:
    """In ms: from a message's arrival to its PUBACK; from there to the delivery on another node. And what came out of it."""

    ack_p50: float
    ack_p99: float
    behind_p50: float
    behind_p99: float
    group: float
    busy: float


def simulate(
    plan: Plan, figures: Figures, assumed: Assumptions, *, stream: bool = False, seconds: float = 20.0, seed: int = 1
) -> Latency:
    """Run the node for so long, or until it has had its most messages. ``stream``: the server has change streams."""
    chance = random.Random(seed)
    costs, trips, rate = figures.costs, figures.trips, plan.messages
    received = (plan.parcels * costs.parcel.cpu_us + plan.carried * costs.carried.cpu_us) / 2  # the other half is sending
    receiving = received + plan.looks * costs.look.cpu_us
    slowed = 1e3 * assumed.speed * max(0.05, 1 - receiving / assumed.speed / 1e6)  # us to ms
    each = costs.message.cpu_us + plan.load.recipients * costs.recipient.cpu_us
    fixed = costs.group.cpu_us + (costs.tell.cpu_us + received / plan.groups if plan.nodes > 1 else 0.0)
    waits = [(trips.probes, assumed.probe_ms), (trips.reads, assumed.read_ms)]
    waits.append((trips.writes + (plan.nodes > 1), assumed.write_ms))
    between = assumed.between_looks_ms * (min(1.0, plan.parcels * assumed.between_looks_ms / 1e3) if stream else 1.0)
    end = min(seconds, _MOST / rate) * 1e3
    now, busy, groups = 0.0, 0.0, 0
    coming = _pause(chance, rate)
    acks: list[float] = []
    behind: list[float] = []
    while coming < end:
        now = max(now, coming)
        group = []
        while coming <= now:
            group.append(coming)
            coming += _pause(chance, rate)
        work = (fixed + len(group) * each) / slowed
        now += work + sum(_time(chance, count, median) for count, median in waits)
        busy, groups = busy + work, groups + 1
        acks += [now - arrived for arrived in group]
        looked = _time(chance, 1, assumed.read_ms) + chance.uniform(0, between)
        behind.append(looked + costs.look.cpu_us / slowed)
    acks.sort()
    behind.sort()
    busy = busy / max(now, end)
    return Latency(*_quantiles(acks), *_quantiles(behind), len(acks) / max(1, groups), busy)


def _pause(chance: random.Random, rate: float) -> float:
    """Until the next message, in ms."""
    return -math.log(1 - chance.random()) / rate * 1e3


def _time(chance: random.Random, count: float, median: float) -> float:
    """Of ``count`` answers, one after the other; of a part of one, that part."""
    whole, part = int(count), count - int(count)
    total = sum(_answer(chance, median) for _ in range(whole))
    return total + (part * _answer(chance, median) if part else 0.0)


def _answer(chance: random.Random, median: float) -> float:
    return median * math.exp(_NORMAL.inv_cdf(1 - chance.random()))  # the same in every version of Python


def _quantiles(values: list[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    return values[len(values) // 2], values[len(values) * 99 // 100]
