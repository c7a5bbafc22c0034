"""What the reactions of one group do to the rows (`plugins.reaction_rows`)."""

from __future__ import annotations

from collections.abc import Iterable

from broker.hooks import Refusal
from plugins.reaction_rows import COUNTS, GIVEN, MOST, MOST_KINDS, Given, Rows, counts_row, given_by, given_key, rows_of
from storage.records import Append, DropRow, Operation, PutRow, Row


class Reacting:
    """Each message's reactions are read once, and its counts written once, for all of a group. ``by`` is the message of the
    group that adds or removes: what it does to rows belongs to it."""

    def __init__(self, storage: Rows) -> None:
        self._storage = storage
        self._given: dict[tuple[str, int], set[Given]] = {}
        self._counts: dict[tuple[str, int], Row | None] = {}
        """As they are stored."""
        self._changed: dict[tuple[str, int], Append] = {}
        self._said: set[tuple[str, int, Given]] = set()
        """What the group has changed."""
        self._rows: list[Operation] = []

    async def add(self, by: Append, seq: int, one: Given) -> None:
        """A user reacts; once is enough. Raises `Refusal` beyond a limit."""
        given = await self._of(by.message.topic, seq)
        if one in given:
            if (by.message.topic, seq, one) in self._said:  # by what may be refused yet, or be a repeat
                self._change(by, seq, one, PutRow(GIVEN, by.message.topic, given_key(seq, one), b"", of=by))
            return
        if len(given) >= MOST:
            raise Refusal(f"the message has {MOST} reactions, as many as it may")
        kinds = {other.reaction for other in given}
        if one.reaction not in kinds and len(kinds) >= MOST_KINDS:
            raise Refusal(f"the message has {MOST_KINDS} different reactions, as many as it may")
        given.add(one)
        self._change(by, seq, one, PutRow(GIVEN, by.message.topic, given_key(seq, one), b"", of=by))

    async def remove(self, by: Append, seq: int, one: Given) -> None:
        """A user takes a reaction back; where there is none, nothing happens."""
        given = await self._of(by.message.topic, seq)
        if one in given or (by.message.topic, seq, one) in self._said:
            given.discard(one)
            self._change(by, seq, one, DropRow(GIVEN, by.message.topic, given_key(seq, one), of=by))

    async def clear(self, by: Append, seqs: Iterable[int]) -> None:
        """The messages are recalled: nobody has reacted to them."""
        seqs = list(seqs)
        await self.read(by.message.topic, seqs)
        for seq in seqs:
            for one in sorted(await self._of(by.message.topic, seq)):
                await self.remove(by, seq, one)

    async def read(self, topic: str, seqs: Iterable[int]) -> None:
        """Of many messages at once: the group waits for it, and one read after the other would add up to more than a hook's
        time."""
        new = [seq for seq in seqs if (topic, seq) not in self._given]
        counts = await rows_of(self._storage, COUNTS, topic, new)  # first: see `counts_row`
        given = await rows_of(self._storage, GIVEN, topic, new)
        for seq in new:
            self._counts[topic, seq] = counts[seq][0] if counts[seq] else None
            self._given[topic, seq] = {given_by(row) for row in given[seq]}

    def operations(self) -> list[Operation]:
        """What is to be committed with the group."""
        counts = []
        for (topic, seq), by in self._changed.items():
            row = counts_row(topic, seq, self._counts[topic, seq], self._given[topic, seq])
            row.of = by
            counts.append(row)
        return [*self._rows, *counts]

    def _change(self, by: Append, seq: int, one: Given, row: Operation) -> None:
        self._said.add((by.message.topic, seq, one))
        self._rows.append(row)
        self._changed[by.message.topic, seq] = by

    async def _of(self, topic: str, seq: int) -> set[Given]:
        if (topic, seq) not in self._given:
            await self.read(topic, [seq])
        return self._given[topic, seq]
