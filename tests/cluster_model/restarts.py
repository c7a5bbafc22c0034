"""Plays of rolling restarts: nodes are told to stop, one after the other, while wills go out and everybody connects elsewhere.

A call of the node that stops, and one of a node to which its clients go, may be held up at any step. What must come of it is
what `tests.cluster_model.checker` says of any play: above all that a will reaches who moves at that very moment.
"""

from __future__ import annotations

from random import Random

from tests.cluster_model.nodes import Latency, Trap
from tests.cluster_model.plays import COMMITS, SLOW
from tests.cluster_model.world import TOPICS, Play, Step

READERS, HOLDERS = (0, 1), (2, 4)
"""Devices of one user, who read everything; and who have wills."""
_WAITS = (0.0, 0.0, 0.001, 0.003, 0.02, 0.1, 0.3)
_PAUSES = (0.003, 0.02, 0.1, 0.5)
_STOPPING = (*COMMITS, "send", "routes_after", "receive", "device")
_RECEIVING = (*COMMITS, "take", "device", "inbox_head", "read_inbox", "receive", "routes_after")


def restarts_of(seed: int) -> Play:
    """The play of a number."""
    random = Random(seed)
    one = random.choice

    def publishing() -> Step:
        return Step("publish", one(HOLDERS), (one(TOPICS), one((1, 2, 0)), False), one(_WAITS))

    def trap(node: int, calls: tuple[str, ...]) -> Step:
        return Step("trap", node, Trap(one(calls), one((False, True)), "pause", random.randrange(4), one(_PAUSES)))

    def latencies() -> tuple[Latency, ...]:
        return tuple((one(SLOW), one((0.0, 0.002, 0.01, 0.03)), one((0.0, 0.002, 0.01))) for _ in range(random.randint(0, 3)))

    def connecting(who: int) -> Step:
        wishes = (random.randrange(3), one(("drop", "drop", "forsake")), False, who in HOLDERS, 0)
        return Step("connect", who, wishes, one(_WAITS))

    def restart() -> list[Step]:
        node = random.randrange(3)
        steps = [trap(node, _STOPPING)] if random.random() < 0.7 else []
        if random.random() < 0.5:
            steps.append(trap(node + random.randint(1, 2), _RECEIVING))
        steps.append(publishing())
        steps.append(Step(one(("terminate", "terminate", "terminate", "leave")), node, None, one(_WAITS)))
        for who in random.sample(READERS + HOLDERS, 4):
            steps.append(connecting(who))
            if random.random() < 0.4:
                steps.append(publishing())
            if random.random() < 0.3:
                steps.append(Step(one(("hold", "acknowledge")), one(READERS), None, one(_WAITS)))
            if who in READERS and random.random() < 0.3:
                steps.append(Step("subscribe", who, ("#", 2), one(_WAITS)))
        return [*steps, Step("start", wait=one((0.1, 0.5)))]

    steps = [Step("connect", who, (random.randrange(3), "drop", False, who in HOLDERS, 0), 0.02) for who in READERS + HOLDERS]
    steps += [Step("subscribe", who, ("#", one((1, 2))), 0.02) for who in READERS]
    for _ in range(random.randint(2, 4)):
        steps += restart()
    return Play(3, random.randrange(1 << 20), steps, latencies=tuple(latencies() for _ in range(3)))
