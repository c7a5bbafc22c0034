"""What the model has found: each of these plays broke a law once."""

from __future__ import annotations

import pytest

from tests.cluster_model.checker import faults
from tests.cluster_model.nodes import Trap
from tests.cluster_model.world import WORKERS, Play, Step, played

PHONE, TABLET, METER, SHOP, PAGER = range(5)
ALL = [Step("connect", who, (who, "drop", False, who == PHONE, 0), 0.02) for who in range(4)]


def connect(
    who: int, node: int, how: str = "drop", *, clean: bool = False, will: bool = False, delay: int = 0, wait: float = 0.0
) -> Step:
    return Step("connect", who, (node, how, clean, will, delay), wait)


FOUND = {
    "a clean session misses what a node that died had stored and told nobody of": Play(
        2,
        1,
        [
            *ALL,
            Step("subscribe", SHOP, ("#", 2), 0.1),
            Step("trap", 0, Trap("send", False, "kill")),
            Step("publish", METER, ("a/1", 2, False), 1.0),
        ],
        (0.0, -3600.0, 0.0),
    ),
    "a clean session with a will, and one without, are both connected": Play(
        2,
        29096,
        [*ALL, connect(SHOP, 0, "disconnect", will=True), connect(SHOP, 1, "forsake", wait=0.001)],
        (0.0, -3600.0, 0.0),
    ),
    "the end of a stored session hides the clean one that has begun": Play(
        3,
        22502,
        [
            *ALL,
            connect(SHOP, 0, "forsake", clean=True, will=True, delay=1, wait=0.02),
            connect(SHOP, 2, "disconnect", wait=0.003),
            connect(SHOP, 0, "forsake", clean=True, will=True, delay=1, wait=0.02),
        ],
        (-3600.0, -3600.0, 3600.0),
    ),
    "the will of a device that has just connected to another node is published": Play(
        3,
        13,
        [
            *ALL,
            connect(METER, 2, clean=True, will=True, wait=0.001),
            connect(METER, 2, clean=True, will=True, wait=0.001),
            connect(PHONE, 2, clean=True, will=True),
        ],
        (0.0, -3600.0, -3600.0),
    ),
    "a clean session that is late takes a will with it": Play(
        3,
        524288,
        [
            *ALL,
            Step("subscribe", METER, ("a/1", 0), 0.1),
            connect(TABLET, 2, "disconnect", delay=100),
            Step("subscribe", SHOP, ("#", 1), 0.001),
            connect(SHOP, 2, "disconnect", wait=0.003),
            connect(SHOP, 0, "disconnect", will=True, wait=0.1),
        ],
        (3600.0, 3600.0, -3600.0),
    ),
    "a device is opened as it was before another node had it": Play(
        3,
        1045587,
        [
            *ALL,
            connect(SHOP, 0, "disconnect", will=True, wait=0.001),
            connect(TABLET, 0, "forsake", wait=0.003),
            connect(TABLET, 2, "disconnect", will=True, wait=0.02),
        ],
        (0.0, 3600.0, 0.0),
    ),
    "a node that was marked dead fails over a CONNECT": Play(
        2, 3413, [*ALL, connect(SHOP, 0, "disconnect"), Step("away", 0, False, 3.0)], (-3600.0, 0.0, 0.0)
    ),
    "a node that was marked dead fails over a CONNECT that it had read": Play(
        2,
        1345,
        [
            *ALL,
            Step("trap", 1, Trap("routes_after", False, "stall")),
            connect(TABLET, 1, "forsake", clean=True, wait=0.003),
            Step("start", 0, None, 3.0),
        ],
        (0.0, 3600.0, 3600.0),
    ),
}

_HOLDS = ((), (), (("receive", 0.002, 0.002), ("commit store", 0.03, 0.0)))


def _late(freeze: float) -> Play:
    """A node that was asked to open a device freezes once it has asked the holder for it, which gives it and has it back by
    then."""
    steps = [connect(who, who, wait=0.02) for who in (*range(4), PAGER)]
    steps += [Step("subscribe", PAGER, ("#", 1), 0.6), Step("publish", PHONE, ("a/1", 0, False), 0.1)]
    steps += [connect(PAGER, 0, "disconnect", will=True, wait=0.003), Step("publish", SHOP, ("b", 1, True), 0.001)]
    steps += [Step("stop", 0, None, 0.02), connect(PAGER, 1, "forsake", wait=freeze), Step("recover", 0)]
    return Play(3, 4, steps, latencies=_HOLDS)


def _deaf(trap: Trap) -> Play:
    """A node that asks for a device is itself held up for longer than it waits for an answer as the client goes back."""
    steps = [*ALL, connect(PHONE, 1, "disconnect", wait=0.02), Step("subscribe", PHONE, ("a/1", 1), 0.6), Step("trap", 2, trap)]
    steps += [connect(PHONE, 2, "disconnect", wait=0.3), connect(PHONE, 1, "disconnect", wait=0.1)]
    return Play(3, 0, [*steps, Step("publish", SHOP, ("a/1", 1, False), 1.5)])


def _overtaken(between: float) -> Play:
    """A node is held up as it stores what a device has published with QoS 2 and then with QoS 1, and goes on when another one
    has taken the device and has not opened it yet."""
    steps = [
        *ALL,
        Step("subscribe", METER, ("a/1", 1), 0.6),
        Step("trap", 0, Trap("commit store", False, "pause", seconds=0.6)),
    ]
    steps += [Step("publish", PHONE, ("a/1", 2, False), between), Step("publish", PHONE, ("a/1", 1, False), 0.02)]
    return Play(3, 1, [*steps, connect(PHONE, 1, "forsake", wait=1.0)], latencies=((), (("finish", 0.3, 0.0),), ()))


FOUND |= {
    "a node takes a question that it has not sent yet for one that nobody answers": _deaf(
        Trap("send", False, "pause", seconds=0.5)
    ),
    "a node takes an answer that it has not received yet for none": _deaf(Trap("receive", True, "pause", seconds=0.5)),
    "QoS 1 overtakes the QoS 2 of its group, which was refused": _overtaken(0.0),
    "QoS 1 overtakes the QoS 2 of the group before, which was refused": _overtaken(0.02),
    "who gave a device and has it again is not asked again": _late(0.003),
    "a node takes its own freeze for the silence of the one that it asked": _late(0.6),
    "a node whose only member of a shared subscription connects again is told no more of it": Play(
        3,
        644231,
        [
            Step("stop", 0, None, 0.0),
            Step("nothing", wait=0.9),
            Step("publish", METER, ("b", 2, False), 0.02),
            Step("start", wait=0.5),
            Step("subscribe", PHONE, ("a/1", 0), 0.1, (Step("publish", PHONE, ("a/2", 1, False), 0.02),)),
            Step("share", WORKERS[0], 2, 0.02),
            Step("share", WORKERS[2], 1, 0.02),
            connect(WORKERS[0], 1, "forsake", wait=0.1),
            connect(WORKERS[2], 1),
            Step("publish", PHONE, ("s", 2, False), 0.001),
        ],
    ),
    "a node takes back that it waits for a group's messages, which it has already told": Play(
        3,
        644231,
        [
            Step("subscribe", 0, ("b", 0), 0.001),
            Step("connect", 4, (1, "drop", False, True, 3, 3600), 0.05),
            Step("stop", 0, None, 0.0),
            Step("nothing", 0, None, 0.9),
            Step("stop", 2, None, 0.02),
            Step("connect", 2, (1, "forsake", False, False, 0), 0.001),
            Step("publish", 2, ("b", 2, False), 0.02),
            Step("nothing", 0, None, 0.1),
            Step("recover", 2, None, 0.02),
            Step("start", 0, None, 0.5),
            Step("subscribe", 4, ("a/+", 2), 0.003, (Step("publish", 1, ("a/2", 1, False), 0.1),)),
            Step("publish", 0, ("b", 1, True), 0.003),
            Step("publish", 0, ("b", 2, False), 0.001),
            Step("subscribe", 2, ("a/+", 0), 0.001, (Step("publish", 2, ("a/1", 0, False), 0.1),)),
            Step("nothing", 0, None, 0.001),
            Step("subscribe", 0, ("a/1", 0), 0.1, (Step("publish", 0, ("a/2", 1, False), 0.02),)),
            Step("nothing", 0, None, 0.02),
            Step("share", 5, 2, 0.02),
            Step("share", 7, 1, 0.02),
            Step("connect", 5, (1, "forsake", False, False, 0), 0.1),
            Step("connect", 7, (1, "drop", False, False, 0), 0.0),
            Step("publish", 0, ("s", 2, False), 0.001),
        ],
    ),
    "who was refused a device does not know the filters that it got elsewhere": Play(
        2,
        605677,
        [
            Step("start", 1, None, 0.003),
            Step("publish", 2, ("a/2", 2, True), 0.0),
            Step("nothing", 0, None, 3.0),
            Step("kill", 0, None, 0.02),
            Step("subscribe", 2, ("#", 0), 0.0, (Step("publish", 1, ("a/1", 0, False), 0.001),)),
            Step("nothing", 0, None, 0.1),
            Step("nothing", 0, None, 0.2),
            Step(
                "ambush",
                2,
                Trap(call="commit inboxes", after=False, fault="pause", skip=0, seconds=0.5),
                0.0,
                (Step("publish", 3, ("a/1", 2, False), 0.1),),
            ),
            Step("nothing", 0, None, 0.2),
            Step("connect", 2, (2, "disconnect", False, False, 0), 0.003),
        ],
    ),
    "an older CONNECT takes the device from a newer one of the same node": Play(
        3,
        1,
        [
            connect(PHONE, 2, clean=True, wait=0.02),
            connect(PHONE, 1, "disconnect", will=True, delay=1),
            connect(PHONE, 1, "disconnect", will=True, delay=1),
            connect(SHOP, 0, "disconnect", wait=0.02),
            connect(PHONE, 2, "disconnect", clean=True, will=True, wait=0.003),
        ],
        (-3600.0, 0.0, -3600.0),
    ),
    "a CONNECT that found no session ends the one that another node has made meanwhile": Play(
        3,
        664841,
        [
            *(connect(PHONE, 1, wait=0.02), connect(TABLET, 1, wait=0.02), connect(METER, 1, will=True, wait=0.02)),
            connect(PAGER, 2, will=True, wait=0.02),
            *(Step("subscribe", PHONE, ("#", 2), 0.02), Step("subscribe", TABLET, ("#", 1), 0.02)),
            connect(TABLET, 0, "forsake", wait=0.003),
            Step("publish", METER, ("a/1", 1, False)),
        ],
        latencies=(
            (),
            (("routes_after", 0.03, 0.01), ("commit inboxes", 0.01, 0.0), ("routes_after", 0.002, 0.0)),
            (("routes_after", 0.01, 0.0), ("commit store", 0.01, 0.0)),
        ),
    ),
    "who goes on with a session that was not found finds, and publishes, its own will": Play(
        3,
        403425,
        [
            *(connect(PHONE, 1, wait=0.02), connect(TABLET, 0, wait=0.02), connect(PAGER, 0, will=True, wait=0.02)),
            *(Step("subscribe", PHONE, ("#", 2), 0.02), Step("subscribe", TABLET, ("#", 1), 0.02)),
            Step("terminate", 0, None, 0.001),
            connect(PAGER, 2, will=True),
            *(Step("publish", METER, ("a/1", 1, False), 0.1), Step("publish", PAGER, ("a/2", 2, False), 0.02)),
            connect(PAGER, 1, will=True, wait=0.3),
        ],
        latencies=(
            (("commit inboxes", 0.03, 0.002), ("read_inbox", 0.0, 0.002), ("routes_after", 0.01, 0.01)),
            (("commit matches", 0.0, 0.01), ("commit inboxes", 0.01, 0.002), ("commit", 0.03, 0.0)),
            (("send", 0.0, 0.002),),
        ),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_it_is_mended(name: str) -> None:
    assert faults(played(FOUND[name])) == []
