"""Messages with the content of their later versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from plugins import edit_rows, reaction_rows
from plugins.edit_rows import edits_between, edits_of
from plugins.reaction_rows import counts_between
from plugins.timelines.messages import hex_id, rendered, rendered_version
from storage.records import Message

_MOST_COUNTS = 10_000
"""Messages of a page, with those that have expired among them, whose reactions are looked for."""
_AT_ONCE = 10
"""Messages that are read at once, with their payloads."""


class Rows(edit_rows.Rows, reaction_rows.Rows, Protocol):
    """What of storage is read."""


class Versions:
    """Reads later versions."""

    def __init__(self, storage: Rows) -> None:
        self._storage = storage

    async def shown(self, topic: str, messages: Sequence[Message], max_bytes: int) -> list[dict[str, Any]]:
        """Messages of a topic, in the order of their sequences or the other way round, as they are now: with the content of
        their latest versions, and the counts of reactions. One look for each of the two, and one for those versions. Fewer,
        one at least, where these fill ``max_bytes``."""
        if not messages:
            return []
        seqs = (messages[0].seq, messages[-1].seq)
        first, last = min(seqs), max(seqs)
        edits = await edits_between(self._storage, topic, first, last)
        counts = await counts_between(self._storage, topic, first, last, min(last - first + 1, _MOST_COUNTS))
        shown: list[dict[str, Any]] = []
        size = 0
        for start in range(0, len(messages), _AT_ONCE):
            some = messages[start : start + _AT_ONCE]
            latest = await self._latest([edits[m.seq] for m in some if m.seq in edits and not m.recalled])
            for message in some:
                newer = next((latest[one] for one in reversed(edits.get(message.seq, ())) if one in latest), None)
                if newer is None:
                    shown.append(rendered(message))
                else:
                    shown.append(rendered_version(message, newer, 1 + len(edits[message.seq])))
                    size += len(newer.payload)
                if not message.recalled:
                    shown[-1]["reactions"] = counts.get(message.seq, {})
            if size >= max_bytes:
                break
        return shown

    async def _latest(self, edits: Sequence[list[int]]) -> dict[int, Message]:
        """The last ones. One whose commit was refused after its row was written is not there: then the one before counts."""
        found = {message.id: message for message in await self._storage.read_messages([one[-1] for one in edits])}
        for ids in edits:
            for one in reversed(ids):
                if one in found:
                    break
                found.update({message.id: message for message in await self._storage.read_messages([one])})
        return found

    async def of(self, message: Message) -> list[dict[str, Any]]:
        """See `plugins.timelines.service.Timelines.versions`."""
        ids = [message.id, *await edits_of(self._storage, message.topic, message.seq)]
        shown = []
        for start in range(0, len(ids), _AT_ONCE):
            for one in await self._storage.read_messages(ids[start : start + _AT_ONCE]):
                recalled = rendered(one)["recalled"]
                shown.append({"id": hex_id(one.id), "seq": one.seq, "sender": one.user, "time": one.time, "recalled": recalled})
        return shown
