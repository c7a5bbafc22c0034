"""What is asked about messages that others recall or edit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from broker.hooks import Group
from broker.packets import Property
from plugins.edit_rows import Rows, edits_of
from plugins.recall.asked import RECALLS
from plugins.timelines.messages import EDITS, message_properties, parse_id
from storage.records import Message

_AT_ONCE = 16
"""Messages that are read at once, with their payloads."""


class Store(Rows, Protocol):
    """What of storage is read."""


class Known(NamedTuple):
    """``edits``: the id of the message of which it says to be a later version, 0 for none. ``seq`` is 0 until it is stored."""

    topic: str
    user: str
    time: int
    seq: int
    recalls: bool
    recalled: bool
    edits: int

    @classmethod
    def of(cls, message: Message) -> Known:
        """What is asked about one, without its content."""
        pairs = dict(message_properties(message).get(Property.USER_PROPERTY, ())) if message.properties else {}
        m = message
        return cls(m.topic, m.user, m.time, m.seq, RECALLS in pairs, m.recalled, parse_id(pairs.get(EDITS, "")))


async def known_of(storage: Store, group: Group, ids: Iterable[int]) -> dict[int, Known]:
    """Messages by id, as far as there are any; some may come before in the group. Raises `StorageError`."""
    wanted = set(ids)
    found = {one.message.id: Known.of(one.message) for one in group.appends if one.message.id in wanted and one.store}
    missing = sorted(wanted - found.keys())
    for start in range(0, len(missing), _AT_ONCE):
        page = await storage.read_messages(missing[start : start + _AT_ONCE])
        found.update({message.id: Known.of(message) for message in page})
    return found


async def all_versions(storage: Store, known: dict[int, Known], ids: Iterable[int]) -> list[int]:
    """The messages with these ids, and all others that are versions of the same. Raises `StorageError`."""
    found: dict[int, None] = dict.fromkeys(ids)
    for one in list(found):
        first, first_id = known[one], one
        if first.edits:
            first_id = first.edits
            first = next((Known.of(m) for m in await storage.read_messages([first_id])), first)
        edits = await edits_of(storage, first.topic, first.seq) if first.seq else []
        # What a message says of itself proves nothing.
        if one == first_id or (one in edits and first.topic == known[one].topic):
            found.update(dict.fromkeys([first_id, *edits]))
    return list(found)
