"""What is asked about messages that others recall or edit."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, Protocol

from broker.hooks import Group, Refusal
from broker.packets import Property
from plugins.edit_rows import Rows, edits_between
from plugins.recall.asked import RECALLS, Reaction, reaction
from plugins.timelines.messages import EDITS, message_properties, parse_id
from storage.records import Message

_AT_ONCE = 16
"""Messages that are read at once, with their payloads."""


class Store(Rows, Protocol):
    """What of storage is read."""


class Known(NamedTuple):
    """``edits``: the id of the message of which it says to be a later version, 0 for none. ``seq`` is 0 until it is stored.
    ``reacts`` is what it says to react with."""

    topic: str
    user: str
    time: int
    seq: int
    recalls: bool
    recalled: bool
    edits: int
    reacts: Reaction | None = None

    @classmethod
    def of(cls, message: Message) -> Known:
        """What is asked about one, without its content."""
        pairs = dict(message_properties(message).get(Property.USER_PROPERTY, ())) if message.properties else {}
        m = message
        reacts = None
        with suppress(Refusal):  # of an earlier version, or of a time without this plugin
            reacts = reaction(message) if pairs and not m.recalled else None
        return cls(
            m.topic,
            m.user,
            m.time,
            m.seq,
            RECALLS in pairs and not m.payload,
            m.recalled,
            parse_id(pairs.get(EDITS, "")),
            reacts,
        )


async def known_of(storage: Store, group: Group, ids: Iterable[int]) -> dict[int, Known]:
    """Messages by id, as far as there are any; some may come before in the group. Raises `StorageError`."""
    wanted = set(ids)
    found = {one.message.id: Known.of(one.message) for one in group.appends if one.message.id in wanted and one.store}
    missing = sorted(wanted - found.keys())
    for start in range(0, len(missing), _AT_ONCE):
        page = await storage.read_messages(missing[start : start + _AT_ONCE])
        found.update({message.id: Known.of(message) for message in page})
    return found


async def all_versions(storage: Store, known: dict[int, Known], ids: Iterable[int]) -> dict[int, int]:
    """The messages with these ids, all of one topic, and all others that are versions of the same, with their sequences; 0 of
    who is no first version. Raises `StorageError`."""
    found = dict.fromkeys(ids, 0)
    named = sorted({known[one].edits for one in found if known[one].edits} - known.keys())
    firsts = {one: known[one] for one in found if not known[one].edits}
    for start in range(0, len(named), _AT_ONCE):
        firsts.update({m.id: Known.of(m) for m in await storage.read_messages(named[start : start + _AT_ONCE])})
    firsts |= {known[one].edits: known[known[one].edits] for one in found if known[one].edits in known}
    topics = {known[one].topic for one in found}
    seqs = {first.seq: one for one, first in firsts.items() if first.seq and first.topic in topics}
    if not seqs:
        return found
    edits = await edits_between(storage, topics.pop(), min(seqs), max(seqs))
    for seq, one in seqs.items():
        mine = edits.get(seq, [])
        if one in found or not found.keys().isdisjoint(mine):  # what a message says of itself proves nothing
            found.update(dict.fromkeys(mine, 0))
            found[one] = seq
    return found
