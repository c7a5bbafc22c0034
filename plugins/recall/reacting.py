"""What the reactions of one group do to the rows (`plugins.reaction_rows`)."""

from __future__ import annotations

from broker.hooks import Refusal
from plugins.reaction_rows import GIVEN, MOST, MOST_KINDS, Given, Rows, counts_row, given_key, given_to
from storage.records import DropRow, Operation, PutRow


class Reacting:
    """Each message's reactions are read once, and its counts written once, for all of a group."""

    def __init__(self, storage: Rows) -> None:
        self._storage = storage
        self._given: dict[tuple[str, int], set[Given]] = {}
        self._changed: dict[tuple[str, int], None] = {}
        self._rows: list[Operation] = []

    async def add(self, topic: str, seq: int, one: Given) -> None:
        """A user reacts; once is enough. Raises `Refusal` beyond a limit."""
        given = await self._of(topic, seq)
        if one in given:
            return
        if len(given) >= MOST:
            raise Refusal(f"the message has {MOST} reactions, as many as it may")
        kinds = {other.reaction for other in given}
        if one.reaction not in kinds and len(kinds) >= MOST_KINDS:
            raise Refusal(f"the message has {MOST_KINDS} different reactions, as many as it may")
        given.add(one)
        self._change(topic, seq, PutRow(GIVEN, topic, given_key(seq, one), b""))

    async def remove(self, topic: str, seq: int, one: Given) -> None:
        """A user takes a reaction back; where there is none, nothing happens."""
        given = await self._of(topic, seq)
        if one in given:
            given.remove(one)
            self._change(topic, seq, DropRow(GIVEN, topic, given_key(seq, one)))

    async def clear(self, topic: str, seq: int) -> None:
        """The message is recalled: nobody has reacted to it."""
        for one in sorted(await self._of(topic, seq)):
            await self.remove(topic, seq, one)

    async def operations(self) -> list[Operation]:
        """What is to be committed with the group."""
        counts = [await counts_row(self._storage, topic, seq, self._given[topic, seq]) for topic, seq in self._changed]
        return [*self._rows, *counts]

    def _change(self, topic: str, seq: int, row: Operation) -> None:
        self._rows.append(row)
        self._changed[topic, seq] = None

    async def _of(self, topic: str, seq: int) -> set[Given]:
        found = self._given.get((topic, seq))
        if found is None:
            found = self._given[topic, seq] = await given_to(self._storage, topic, seq)
        return found
