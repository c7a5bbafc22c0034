"""What the reactions of one group do to the rows (`plugins.reaction_rows`)."""

from __future__ import annotations

from broker.hooks import Refusal
from plugins.reaction_rows import GIVEN, MOST, MOST_KINDS, Given, Rows, counts_row, given_key, given_to
from storage.records import Append, DropRow, Operation, PutRow


class Reacting:
    """Each message's reactions are read once, and its counts written once, for all of a group. ``by`` is the message of the
    group that adds or removes: what it does to rows belongs to it."""

    def __init__(self, storage: Rows) -> None:
        self._storage = storage
        self._given: dict[tuple[str, int], set[Given]] = {}
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

    async def clear(self, by: Append, seq: int) -> None:
        """The message is recalled: nobody has reacted to it."""
        for one in sorted(await self._of(by.message.topic, seq)):
            await self.remove(by, seq, one)

    async def operations(self) -> list[Operation]:
        """What is to be committed with the group."""
        counts = []
        for (topic, seq), by in self._changed.items():
            row = await counts_row(self._storage, topic, seq, self._given[topic, seq])
            row.of = by
            counts.append(row)
        return [*self._rows, *counts]

    def _change(self, by: Append, seq: int, one: Given, row: Operation) -> None:
        self._said.add((by.message.topic, seq, one))
        self._rows.append(row)
        self._changed[by.message.topic, seq] = by

    async def _of(self, topic: str, seq: int) -> set[Given]:
        found = self._given.get((topic, seq))
        if found is None:
            found = self._given[topic, seq] = await given_to(self._storage, topic, seq)
        return found
