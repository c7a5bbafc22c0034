"""What is drawn: plays of scenes, each of which is a narrow place with whoever meets there drawn at random.

- *Clients* do what clients do; *trouble* befalls nodes in the middle of it.
- *Ambush*: a call that a node makes for somebody's action is held up, stopped, killed or its answer lost, at a step of it, and
  meanwhile somebody else acts on another node: connects, publishes, subscribes.
- *SUBACK*: a message is sent by another client, on another node, as soon as a SUBACK has come.
- *Hop*: a client connects to another node in the middle of its own handshakes, and of what comes for it.
- *Late*: a node freezes, perhaps for longer than others wait for it; its clients go elsewhere, then it wakes.
- *Group*: members of a shared subscription on several nodes, which hold back, hop and die.
- *End*: wills with a delay and sessions that end, over the death of their node.

Drawn with a plain `Random`, not by Hypothesis: that varies what it drew before, and of 30 plays it made 10 were different.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from tests.cluster_model.nodes import LEASE, Latency, Trap
from tests.cluster_model.world import CLIENTS, FILTERS, SHARED_TOPIC, TOPICS, WORKERS, Play, Step

CALLS = (
    "",
    "commit",
    "routes_after",
    "send",
    "receive",
    "beat",
    "take",
    "finish",
    "device",
    "inbox_head",
    "read_inbox",
    "mark_dead",
    "settle",
    "lease",
    "nodes",
    "held",
    "exchange",
)
COMMITS = ("commit", "commit store", "commit matches", "commit inboxes", "commit devices", "commit routes")
SLOW = (*COMMITS, "routes_after", "send", "receive", "take", "finish", "device", "inbox_head", "read_inbox", "retained_range")
_WAITS = (0.0, 0.0, 0.001, 0.003, 0.02, 0.1, 1.0, 1.5 * LEASE)
_SHORT = (0.0, 0.0, 0.001, 0.003, 0.02, 0.1)
_PAUSES = (0.003, 0.02, 0.1, 0.1, 0.5)
_HOW = ("drop", "forsake", "disconnect")
_EXPIRY = 3600


def play_of(seed: int) -> Play:
    """The play of a number."""
    return _Drawing(Random(seed)).play()


class _Drawing:
    """One play's."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._one = random.choice
        self._scenes: Sequence[tuple[int, Callable[[], list[Step]]]] = (
            (4, self._clients),
            (2, self._trouble),
            (4, self._ambush),
            (2, self._killed),
            (2, self._suback),
            (2, self._hop),
            (1, self._late),
            (1, self._group),
            (1, self._end),
        )

    def play(self) -> Play:
        random = self._random
        steps = [Step("connect", who, (who, "drop", False, who == 0, 0), 0.02) for who in CLIENTS]
        steps += [self._subscribing(self._client()) for _ in range(random.randint(3, 8))]
        weights = [weight for weight, _ in self._scenes]
        for _, scene in random.choices(self._scenes, weights, k=random.randint(4, 20)):
            steps += scene()
        skews = tuple(self._one((0.0, 0.0, 3600.0, -3600.0)) for _ in range(3))
        latencies = tuple(self._latencies() for _ in range(3))
        return Play(self._one((2, 3, 3)), random.randrange(1 << 20), steps, skews, latencies)

    def _latencies(self) -> tuple[Latency, ...]:
        return tuple(
            (self._one(SLOW), self._one((0.0, 0.002, 0.01, 0.03)), self._one((0.0, 0.002, 0.01)))
            for _ in range(self._random.randint(0, 2))
        )

    def _client(self) -> int:
        return self._one(CLIENTS)

    def _node(self) -> int:
        return self._random.randrange(3)

    def _wait(self) -> float:
        return self._one(_SHORT)

    # --- single steps ----------------------------------------------------------------------------------------------------

    def _connecting(self, who: int) -> Step:
        clean, will = self._one((False, False, False, True)), self._one((False, True))
        wishes = (self._node(), self._one(_HOW), clean, will, self._one((0, 0, 1, 100)), self._one((*[_EXPIRY] * 3, 1)))
        return Step("connect", who, wishes, self._wait())

    def _going_on(self, who: int) -> Step:
        """A session goes on at another node."""
        return Step("connect", who, (self._node(), self._one(_HOW), False, False, 0), self._wait())

    def _publishing(self, who: int) -> Step:
        return Step("publish", who, (self._one(TOPICS), self._one((1, 2, 0)), self._random.random() < 0.25), self._wait())

    def _subscribing(self, who: int, then: tuple[Step, ...] = ()) -> Step:
        return Step("subscribe", who, (self._one(FILTERS), self._one((1, 2, 0))), self._wait(), then)

    def _acting(self) -> Step:
        act = self._one((self._publishing, self._publishing, self._going_on, self._subscribing, self._connecting))
        return act(self._client())

    # --- scenes ------------------------------------------------------------------------------------------------------------

    def _clients(self) -> list[Step]:
        who, kind = self._client(), self._random.random()
        if kind < 0.45:
            return [self._publishing(self._client()) for _ in range(self._one((1, 1, 2, 3)))]
        if kind < 0.6:
            return [self._connecting(who)]
        if kind < 0.7:
            return [self._subscribing(who)]
        if kind < 0.75:
            return [Step("unsubscribe", who, self._random.randrange(4), self._wait())]
        return [Step(self._one(("hold", "acknowledge", "drop", "disconnect")), who, None, self._wait())]

    def _trouble(self) -> list[Step]:
        what = self._one(("trap", "trap", "stop", "kill", "recover", "leave", "terminate", "away", "back", "start", "nothing"))
        if what == "trap":
            trap = Trap(self._one(CALLS), self._one((False, True)), self._one(("stall", "stop", "kill", "lose", "pause")))
            return [Step(what, self._node(), trap)]
        return [Step(what, self._node(), self._one((False, True)) if what == "away" else None, self._one(_WAITS))]

    def _ambush(self) -> list[Step]:
        calls, fault = self._one(
            ((COMMITS, "pause"), (COMMITS, "pause"), (COMMITS, "stop"), (("routes_after", "send"), "pause"), (CALLS, "pause"))
        )
        trap = Trap(self._one(calls), self._one((False, True)), fault, self._one((0, 0, 0, 1, 2)), self._one(_PAUSES))
        then = tuple(self._acting() for _ in range(self._one((1, 1, 2))))
        return self._trapped(trap, then, self._one((0.02, 0.2, 0.6)))

    def _killed(self) -> list[Step]:
        fault = self._one(("kill", "kill", "stop", "lose"))
        trap = Trap(self._one((*COMMITS, "send")), self._one((False, True)), fault, self._one((0, 0, 0, 1)))
        return self._trapped(trap, (self._going_on(self._client()),), self._one((0.1, 1.5 * LEASE)))

    def _trapped(self, trap: Trap, then: tuple[Step, ...], wait: float) -> list[Step]:
        act = self._publishing(self._client()) if self._random.random() < 0.5 else self._acting()
        return [Step("ambush", act.who, trap, 0.0, then), act, Step("nothing", wait=wait)]

    def _suback(self) -> list[Step]:
        return [self._subscribing(self._client(), (self._publishing(self._client()),)), Step("nothing", wait=self._wait())]

    def _hop(self) -> list[Step]:
        who = self._client()
        return [self._publishing(self._client()), self._publishing(who), self._going_on(who), self._publishing(self._client())]

    def _late(self) -> list[Step]:
        node = self._node()
        return [
            self._publishing(self._client()),
            Step("stop", node, None, 0.02),
            self._going_on(self._client()),
            self._publishing(self._client()),
            Step("nothing", wait=self._one((0.1, 0.6, 1.5 * LEASE))),
            Step("recover", node, None, 0.02),
            Step("start", 0, None, 0.5),
        ]

    def _group(self) -> list[Step]:
        steps = [Step("share", who, self._one((1, 2)), self._one((0.0, 0.02))) for who in WORKERS]
        for _ in range(self._random.randint(4, 12)):
            who, kind = self._one(WORKERS), self._random.random()
            if kind < 0.5:
                steps.append(Step("publish", self._client(), (SHARED_TOPIC, self._one((1, 2, 0)), False), self._wait()))
            elif kind < 0.65:
                steps.append(self._going_on(who))
            elif kind < 0.9:
                steps.append(Step(self._one(("hold", "acknowledge", "drop")), who, None, self._wait()))
            else:
                fault = self._one(("kill", "stop", "pause", "lose"))
                trap = Trap(self._one(("exchange", "commit", "settle")), self._one((False, True)), fault, 0, self._one(_PAUSES))
                steps.append(Step("ambush", who, trap))
        return steps

    def _end(self) -> list[Step]:
        who = self._client()
        wishes = (self._node(), self._one(_HOW), False, True, self._one((0, 1, 3)), self._one((1, 5, _EXPIRY)))
        what = self._one(("kill", "stop", "drop", "leave"))
        return [
            Step("connect", who, wishes, 0.05),
            Step(what, who if what == "drop" else self._node(), None, self._wait()),
            Step("nothing", wait=self._one((0.1, 0.9, 1.1, 1.5 * LEASE))),
            self._going_on(who),
        ]
