"""The checker finds each kind of fault, planted into what clients really saw of a cluster that had none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.cluster_model.checker import faults
from tests.cluster_model.history import Connected, History, Published, Received, Subscribed
from tests.cluster_model.world import Play, Step, played

PHONE, TABLET, METER, SHOP = range(4)


@pytest.fixture
def history() -> History:
    """The phone, the meter and the shop get four messages of the tablet through another node; the shop then goes."""
    steps = [Step("connect", who, (who, "drop", False, who == SHOP, 0), 0.1) for who in range(4)]
    steps += [Step("subscribe", who, ("a/+", qos), 0.1) for who, qos in ((PHONE, 2), (METER, 1), (SHOP, 1))]
    steps += [Step("publish", TABLET, ("a/1", qos, False), 0.1) for qos in (1, 2, 1, 2)]
    found = played(Play(3, 1, [*steps, Step("drop", SHOP, None, 0.1)]))
    assert faults(found) == []
    return found


def _lose(history: History) -> None:
    history.received.remove(next(one for one in history.received if one.device == "phone"))


def _double_qos_2(history: History) -> None:
    history.received.append(next(one for one in history.received if one.device == "phone" and one.qos == 2))


def _double_qos_1(history: History) -> None:
    history.received.append(next(one for one in history.received if one.device == "meter"))


def _swap(history: History) -> None:
    ours = [number for number, one in enumerate(history.received) if one.device == "meter"]
    first, second = ours[:2]
    history.received[first], history.received[second] = history.received[second], history.received[first]


def _forget(history: History) -> None:
    history.stored["a/1"].pop()


def _store_again(history: History) -> None:
    history.stored["a/1"].append((5, "tablet/2"))


def _leave_out(history: History) -> None:
    history.inboxes["u/bob"] = [(seq + (seq > 2), payload) for seq, payload in history.inboxes["u/bob"]]


def _drop_will(history: History) -> None:
    history.stored["wills"].clear()


def _double_will(history: History) -> None:
    history.stored["wills"] *= 2


def _say_goodbye(history: History) -> None:
    shop = next(one for one in history.connected if one.device == "shop")
    history.connected[history.connected.index(shop)] = replace(shop, said_goodbye=True)


def _connect_twice(history: History) -> None:
    history.open_at_end.append(("phone", 7))


def _fail(history: History) -> None:
    history.failures.append("a node logged that")


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (_lose, "lost"),
        (_double_qos_2, "doubled"),
        (_double_qos_1, "doubled"),
        (_swap, "out of order"),
        (_forget, "absent"),
        (_store_again, "doubled"),
        (_leave_out, "gap"),
        (_drop_will, "will"),
        (_double_will, "will"),
        (_say_goodbye, "will"),
        (_connect_twice, "two connections"),
        (_fail, "failure"),
    ],
)
def test_it_finds_a_planted_fault(history: History, plant: Callable[[History], None], kind: str) -> None:
    plant(history)
    assert kind in {line.partition(":")[0] for line in faults(history)}


def _resent(qos: int, *, returned: bool, narrowed: bool = False) -> History:
    """The meter sent two messages twice, as its connection ended before their PUBACKs, and they are stored as 1 2 1 2.

    The tablet got 2 1 2 by a filter of that QoS: after it had ``returned`` by a new connection, or on the one that it had then.
    ``narrowed``: the filter had QoS 1 before the messages were sent.
    """
    first = Connected("tablet", 1, 1, "node1", at=1, time=1.0, present=False, durable=True)
    second = Connected("tablet", 2, 1, "node2", at=8, time=2.0, present=True, durable=True)
    if returned:
        first.ended, first.ended_time = 7, 1.5
    entries = [(1, "meter/1"), (2, "meter/2"), (3, "meter/1"), (4, "meter/2")]
    earlier = [Subscribed("tablet", 1, 1, "a/+", 1, acked=2, ended=3)] if narrowed else []
    return History(
        published={
            f"meter/{number}": Published(
                f"meter/{number}", "a/1", 1, False, "meter", at=4 + number, number=number, sendings=2, acked=9, broken=True
            )
            for number in (1, 2)
        },
        subscribed=[*earlier, Subscribed("tablet", 1, 1, "a/+", qos, acked=4)],
        received=[
            Received("tablet", 1, 1 + returned, f"meter/{number}", "a/1", qos, False, at=10 + place, acked=2.0)
            for place, number in enumerate((2, 1, 2))
        ],
        connected=[first, second] if returned else [first],
        stored={"a/1": entries},
        inboxes={"u/ann": entries},
        users={"tablet": "u/ann"},
    )


def test_the_first_of_two_copies_may_be_lost_with_a_connection_that_gets_qos_0() -> None:
    assert faults(_resent(0, returned=True)) == []
    assert faults(_resent(0, returned=True, narrowed=True)) == []


@pytest.mark.parametrize(("qos", "returned"), [(0, False), (1, False), (1, True), (2, True)])
def test_both_copies_are_due_else(qos: int, *, returned: bool) -> None:
    assert faults(_resent(qos, returned=returned)) == ["out of order: tablet got meter/1 after meter/2"]


def test_nobody_has_noticed_that_a_client_went_whose_next_node_does_not_answer() -> None:
    """It goes without a word, so its will is not due. It first seemed to be, in play 9169."""
    left = [
        Step("connect", SHOP, (1, "drop", False, True, 0), 0.1),
        Step("stop", 0, None, 3.0),
        Step("connect", SHOP, (0, "forsake", False, False, 0), 0.1),
    ]
    assert faults(played(Play(3, 1, left))) == []
