"""Which messages of the index are no longer shown, as later ones have edited them. The store says so, not those messages.

The name and the id of the first version are found in an edit's properties as they are on the wire, which the process that
indexes need not decode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from plugins.edit_rows import Rows, edits_between, edits_of
from storage.records import Message

_NAMED = re.compile(rb"\x26\x00\x0etideline-edits\x00\x10([0-9a-f]{16})")


class Source(Rows, Protocol):
    """What of the store is read."""


def edited_by(messages: Iterable[Message]) -> set[int]:
    """The ids of those that messages say to edit."""
    return {int(found, 16) for message in messages if message.properties for found in _NAMED.findall(message.properties)}


async def superseded(source: Source, ids: Sequence[int]) -> list[int]:
    """Of the messages with these ids, and their later versions: all but the last ones."""
    old: list[int] = []
    for message in await source.read_messages(ids):
        edits = await edits_of(source, message.topic, message.seq)
        old += [message.id, *edits][:-1]
    return old


async def superseded_between(source: Source, topic: str, first: int, last: int, page: Iterable[Message]) -> set[int]:
    """Of a page of a conversation, all that are not the last version of theirs; ``first`` and ``last`` are its sequences."""
    messages = list(page)
    at = {message.seq: message.id for message in messages}
    found: set[int] = set()
    for seq, edits in (await edits_between(source, topic, first, last)).items():
        found.update([at.get(seq, 0), *edits[:-1]])
    if elsewhere := sorted(edited_by(messages) - set(at.values())):  # edits whose first version is on another page
        found.update(await superseded(source, elsewhere))
    return found
