"""How the nodes of a cluster divide the inbox of a shared subscription's group among them. No I/O.

Each entry of the inbox behind ``since``, where the group began, is in one of these places:

| it is | in | until |
|---|---|---|
| not claimed yet | ``next`` and above | a node claims it |
| given back, or of a node that died | ``free`` | a node claims it: before all else, unless it has ``refused`` it |
| a node's to give out | ``claimed``, by the node's token | the node says that it has it no more |
| at QoS 2 with a device that no node has connected, or another one than claimed it | ``held`` | `Division.settle` |
| done | nowhere | |

A node has refused what none of its members can take. That holds until its members change, or the entry is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class SeqRange(NamedTuple):
    """Entries of a group's inbox, from ``first`` to ``last``, both included."""

    first: int
    last: int


def joined(ranges: Iterable[SeqRange]) -> list[SeqRange]:
    """The same entries in order, and in as few ranges as there can be."""
    found: list[SeqRange] = []
    for first, last in sorted(ranges):
        if found and found[-1].last + 1 >= first:
            found[-1] = SeqRange(found[-1].first, max(last, found[-1].last))
        else:
            found.append(SeqRange(first, last))
    return found


def singles(entries: Iterable[int]) -> list[SeqRange]:
    """Entries as ranges."""
    return joined(SeqRange(seq, seq) for seq in entries)


def without(ranges: Sequence[SeqRange], others: Iterable[SeqRange]) -> list[SeqRange]:
    """The entries of the ``ranges`` that the ``others`` have not."""
    found: list[SeqRange] = []
    cuts = joined(others)
    for first, last in joined(ranges):
        for cut in cuts:
            if cut.last < first or cut.first > last:
                continue
            if cut.first > first:
                found.append(SeqRange(first, cut.first - 1))
            first = cut.last + 1
        if first <= last:
            found.append(SeqRange(first, last))
    return found


def common(ranges: Sequence[SeqRange], others: Sequence[SeqRange]) -> list[SeqRange]:
    """The entries that both have."""
    return without(ranges, without(ranges, others))


def entries_in(ranges: Iterable[SeqRange]) -> int:
    """How many entries they are."""
    return sum(last - first + 1 for first, last in ranges)


class Want(NamedTuple):
    """What a node would take: of the entries up to ``head`` at most ``most``, and of those that nobody has one of ``parts``
    equal parts, so that as many nodes get some."""

    head: int
    most: int
    parts: int = 1


class Exchange(NamedTuple):
    """What a node tells of its part of a group's inbox, and what it would get.

    ``since``: where the group began, which says of a group of the same name that it is another one. ``known``: what the node
    knows to have claimed; ``mine``: what of this is not done; ``back``: what of this others may have; ``refused``: what of
    this only others may have, as no member here can take it; ``held``: what a device has at QoS 2 that goes on elsewhere. All
    that is known and in none of those is done.

    ``again``: the members are others than before, who may take what was refused.
    """

    since: int
    known: Sequence[SeqRange] = ()
    mine: Sequence[SeqRange] = ()
    back: Sequence[SeqRange] = ()
    held: Sequence[int] = ()
    want: Want | None = None
    refused: Sequence[SeqRange] = ()
    again: bool = False


class Exchanged(NamedTuple):
    """``got``: what the node has claimed and did not know of, by this exchange or one whose answer was lost; ``claimed``: all
    that it has. ``offset``: all up to it is done, whoever did it. ``free``: whether there is something for it that was given
    back. ``refused``: how many entries that it has refused are not done."""

    got: list[SeqRange]
    claimed: list[SeqRange]
    offset: int
    free: bool
    refused: int = 0


@dataclass(slots=True)
class Division:
    """One group's inbox, as it is divided."""

    since: int
    next: int
    free: list[SeqRange] = field(default_factory=list)
    claimed: dict[int, list[SeqRange]] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    refused: dict[int, list[SeqRange]] = field(default_factory=dict)

    @property
    def offset(self) -> int:
        """The entry up to which all are done."""
        firsts = [ranges[0].first for ranges in (self.free, *self.claimed.values()) if ranges]
        return min(self.next, *firsts, *self.held, self.next) - 1

    def exchange(self, node: int, request: Exchange) -> Exchanged:
        """Take note of what a node tells, and give it what it wants. Made twice it changes nothing the second time."""
        if request.since > self.since:  # another group of that name: what was of the old one is nobody's
            self.since, self.next = request.since, request.since + 1
            self.free, self.claimed, self.held, self.refused = [], {}, [], {}
        elif request.since < self.since:
            return Exchanged([], [], request.since, False)
        has = self.claimed.get(node, [])
        got = without(has, request.known)
        if request.again:
            self.refused.pop(node, None)
        self._refuse(node, common(has, request.refused))
        self.free = joined([*self.free, *common(has, request.back)])
        self.held = sorted({*self.held, *_entries(common(has, singles(request.held)))})
        mine = common(has, request.mine)
        if request.want is not None and not got:
            got = self._claim(node, request.want)
        self._put(node, joined([*mine, *got]))
        self._forget_refusals()
        refused = self.refused.get(node, [])
        free = bool(without(self.free, refused))
        return Exchanged(got, self.claimed.get(node, []), self.offset, free, entries_in(refused))

    def _refuse(self, node: int, entries: list[SeqRange]) -> None:
        if entries:
            self.free = joined([*self.free, *entries])
            self.refused[node] = joined([*self.refused.get(node, ()), *entries])

    def _forget_refusals(self) -> None:
        """Of what is done."""
        there = joined([*self.free, *(part for parts in self.claimed.values() for part in parts)]) if self.refused else []
        self.refused = {token: left for token, parts in self.refused.items() if (left := common(parts, there))}

    def _put(self, node: int, ranges: list[SeqRange]) -> None:
        if ranges:
            self.claimed[node] = ranges
        else:
            self.claimed.pop(node, None)

    def _claim(self, node: int, want: Want) -> list[SeqRange]:
        left = want.most
        got: list[SeqRange] = []
        for first, last in without(self.free, self.refused.get(node, ())):
            if not left:
                break
            got.append(SeqRange(first, min(last, first + left - 1)))
            left -= got[-1].last - first + 1
        self.free = without(self.free, got)
        there = want.head - self.next + 1
        share = min(left, -(-there // want.parts))
        if share > 0:
            got.append(SeqRange(self.next, self.next + share - 1))
            self.next += share
        return joined(got)

    def settle(self, entries: Iterable[int]) -> None:
        """These are done, whoever had them."""
        done = singles(entries)
        self.held = [seq for seq in self.held if not common(singles([seq]), done)]
        for node in list(self.claimed):
            self._put(node, without(self.claimed[node], done))

    def release(self, node: int, held: Iterable[int], done: Iterable[int]) -> None:
        """A node is gone: others may have what it had claimed, but for what its devices ``held`` at QoS 2."""
        self.settle(done)
        self.refused.pop(node, None)
        has = self.claimed.pop(node, [])
        with_devices = common(has, singles(held))
        self.held = sorted({*self.held, *_entries(with_devices)})
        self.free = joined([*self.free, *without(has, with_devices)])


def _entries(ranges: Iterable[SeqRange]) -> list[int]:
    return [seq for first, last in ranges for seq in range(first, last + 1)]
