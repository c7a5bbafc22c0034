"""The queue of logins is fair by address, and within an address by user name."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from broker.access.fair_queue import FairQueue


class Login(NamedTuple):
    address: str
    user: str
    number: int


def queue(per_user: int = 100, per_address: int = 100) -> FairQueue[Login]:
    return FairQueue(per_user=per_user, per_address=per_address)


def drained(waiting: FairQueue[Login]) -> list[Login]:
    found = []
    while (item := waiting.take()) is not None:
        found.append(item)
    return found


def test_one_address_does_not_hold_another_up() -> None:
    waiting = queue()
    flood = [Login("10.0.0.1", f"u{n}", n) for n in range(50)]
    for login in flood:
        assert waiting.put(login) is None
    late = Login("10.0.0.2", "alice", 0)
    assert waiting.take() == flood[0]
    waiting.put(late)
    assert drained(waiting).index(late) == 0  # 10.0.0.1 had the turn before


def test_nor_one_user_name_of_an_address_another() -> None:
    waiting = queue()
    for number in range(50):
        waiting.put(Login("10.0.0.1", "mallory", number))
    late = Login("10.0.0.1", "alice", 0)
    assert waiting.take() == Login("10.0.0.1", "mallory", 0)
    waiting.put(late)
    assert drained(waiting).index(late) == 0


def test_of_one_user_name_the_oldest_gives_way() -> None:
    waiting = queue(per_user=2)
    first, second, third = (Login("a", "alice", n) for n in range(3))
    assert [waiting.put(one) for one in (first, second, third)] == [None, None, first]
    assert drained(waiting) == [second, third]


def test_an_address_has_a_limit() -> None:
    waiting = queue(per_address=2)
    assert [waiting.put(Login("a", f"u{n}", n)) for n in range(3)] == [None, None, Login("a", "u2", 2)]
    assert waiting.put(Login("b", "u2", 2)) is None
    assert len(waiting) == 3


LOGINS = st.builds(Login, st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 10**9))


@given(st.lists(LOGINS, unique=True), st.sets(st.integers(0, 30)))
def test_each_comes_once_in_turn_and_what_was_given_up_never(logins: list[Login], given_up: set[int]) -> None:
    waiting = queue()
    for login in logins:
        assert waiting.put(login) is None
    gone = {login for index, login in enumerate(logins) if index in given_up}
    for login in gone:
        waiting.discard(login)
        waiting.discard(login)
    left = [login for login in logins if login not in gone]
    assert len(waiting) == len(left)
    out = drained(waiting)
    assert Counter(out) == Counter(left)
    for lane in {(login.address, login.user) for login in left}:
        assert [one for one in out if (one.address, one.user) == lane] == [
            one for one in left if (one.address, one.user) == lane
        ]
    assert len(waiting) == 0
