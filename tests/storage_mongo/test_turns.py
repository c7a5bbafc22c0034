"""Turns: nodes on one inbox, in virtual time, over a database that does one thing after the other."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from storage.mongo.turns import Turns, pack_turns, unpack_turns

INSERT, FAILED, LOOK = 1.0, 0.6, 0.15
SLOT = 1.3


@dataclass
class World:
    """One inbox. Nodes are generators of how long each of their steps takes; an insert is decided when its turn at the server
    comes."""

    seed: int
    entries: list[int] = field(default_factory=list)
    """Who wrote each, in order."""
    orders: list[Sequence[int]] = field(default_factory=list)
    """What each says."""
    now: float = 0.0
    free: float = 0.0
    """When the server has done what it was asked so far."""
    late: int = 0
    lost: dict[int, int] = field(default_factory=dict)
    """By node: the most inserts in a row that came too late."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def served(self, cost: float) -> float:
        self.free = max(self.now, self.free) + cost
        return self.free - self.now + 0.2

    def node(self, number: int, groups: int) -> Iterator[float]:
        turns, busy, head = Turns(number), False, 0
        for _ in range(groups):
            yield self.served(INSERT)  # its message, in the store
            lost = 0
            while True:
                if busy or lost:
                    turns.begin()
                    yield SLOT * turns.pause(lost, self.chance.random())
                    wait = 1.0
                    while wait:
                        yield self.served(LOOK)
                        head = len(self.entries)
                        if head:
                            turns.saw(head, self.entries[-1], self.orders[-1])
                        if wait := turns.wait():
                            yield SLOT * wait
                    yield self.served(LOOK)  # whether its entries are there
                yield max(0.0, self.free - self.now)
                if head == len(self.entries):
                    self.entries.append(number)
                    self.orders.append(() if turns.alone else turns.order)
                    head += 1
                    turns.saw(head, number, turns.order)
                    yield self.served(INSERT)
                    break
                lost, busy = lost + 1, True
                self.late += 1
                self.lost[number] = max(lost, self.lost.get(number, 0))
                yield self.served(FAILED)
            busy = not turns.alone

    def run(self, nodes: dict[int, int]) -> None:
        """``nodes``: how many groups each writes."""
        order = itertools.count()
        steps = [(self.chance.random(), next(order), self.node(number, groups)) for number, groups in nodes.items()]
        heapq.heapify(steps)
        while steps:
            self.now, _, node = heapq.heappop(steps)
            if (takes := next(node, None)) is not None:
                heapq.heappush(steps, (self.now + takes, next(order), node))


@pytest.mark.parametrize("count", [2, 4, 8, 16])
@pytest.mark.parametrize("seed", range(3))
def test_nodes_on_one_inbox_write_by_turns(count: int, seed: int) -> None:
    world = World(seed)
    world.run(dict.fromkeys(range(count), 30))
    assert len(world.entries) == 30 * count
    assert world.late < len(world.entries) / 2, "most inserts find their place"
    settled = world.entries[len(world.entries) // 3 : 2 * len(world.entries) // 3]
    shares = [settled.count(number) for number in range(count)]
    assert min(shares) * 3 >= max(shares), "nobody has much less than another"
    assert max(world.lost.values()) <= 30, "nobody loses for ever, while it has no place in the order either"


def test_many_write_nearly_as_fast_as_one() -> None:
    one, many = World(1), World(1)
    one.run({0: 500})
    many.run(dict.fromkeys(range(16), 60))
    assert len(many.entries) / many.now > 0.8 * len(one.entries) / one.now


def test_who_comes_no_more_is_passed_over() -> None:
    world = World(2)
    world.run({number: 10 if number < 8 else 60 for number in range(10)})
    assert len(world.entries) == 8 * 10 + 2 * 60


MANY = [20, 21, 22]
"""More nodes in the order, which come after those that a test is about."""


def test_who_wrote_longest_ago_comes_first() -> None:
    turns = Turns(2)
    turns.saw(1, 0, [1, 2, *MANY, 0])
    assert turns.ahead == 1, "node 1 wrote before"
    turns.begin()
    assert turns.wait() == 0.5
    turns.saw(5, 1)
    assert turns.wait() == 0.0
    turns.saw(6, 2)
    assert turns.ahead == 5


def test_what_its_writer_has_seen_counts_more_than_what_was_seen_here() -> None:
    turns = Turns(2)
    turns.saw(1, 2)
    turns.saw(2, 7)
    turns.saw(9, 4, unpack_turns(pack_turns([5, 2, 1023, 4])))
    assert turns.ahead == 1
    assert turns.order == [5, 1023, 4, 2]
    turns.saw(12, 2, turns.order)
    assert turns.ahead == 3


def test_who_was_passed_over_has_no_place_until_it_has_written_again() -> None:
    turns = Turns(2)
    turns.saw(1, 3, [2, 3])
    turns.saw(2, 4, [3, 4])
    assert turns.ahead == 0
    assert turns.pause(1, 1.0) == 2.0


def test_what_was_seen_before_changes_nothing() -> None:
    turns = Turns(1)
    turns.saw(1, 1)
    turns.saw(2, 2)
    turns.saw(3, 3)
    turns.saw(1, 1)
    turns.saw(2, 2)
    turns.saw(4, 1)
    assert turns.ahead == 2


def test_who_all_are_gone_are_passed_over() -> None:
    turns = Turns(1)
    turns.saw(2, 1, [2, *MANY, 5, 1])
    turns.begin()
    assert turns.wait() == 6.5
    assert not turns.alone
    assert turns.wait() == 6.5
    assert turns.wait() == 0.0
    assert turns.alone


def test_the_first_of_several_is_passed_over_where_others_go_on() -> None:
    turns = Turns(9)
    turns.saw(3, 9, [1, 2, 9, *MANY])
    turns.begin()
    assert turns.wait() == 2.0
    turns.saw(4, 3)
    assert turns.wait() == 2.0
    assert turns.wait() == 0.5, "node 1 does not come"


def test_a_newcomer_waits_longer_each_time_and_never_too_long() -> None:
    turns = Turns(1)
    turns.saw(1, 2)
    pauses = [turns.pause(lost, 1.0) for lost in range(9)]
    assert pauses == [0.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    turns.saw(2, 1)
    assert [turns.pause(lost, 1.0) for lost in range(3)] == [0.0, 0.0, 2.0]
