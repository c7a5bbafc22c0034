"""Who takes part in which conversation: noted with the message that makes it so, in the same commit.

The hook looks at every message, so it remembers what it has noted: per message of a known pair it costs one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, filterfalse
from typing import Any

from broker.hooks import Group, readers_of
from broker.sessions import is_shared
from storage.records import Append, Join

LIMIT = 200_000
"""Pairs remembered; then they are forgotten, and noted anew as they come. Measured: 13 MiB where all are of one topic, 96 MiB
where each has a topic of its own. One message to more users than that adds to it until the next."""

_BROKER = "b/"


class Participants:
    """Adds a `storage.records.Join` to groups with new pairs. One per broker, whatever plugins need it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._known: dict[str, tuple[Sequence[str], set[str]]] = {}
        self._pairs = 0
        self._owner: object = None

    @classmethod
    def shared(cls, context: Any) -> Participants:
        """The one of the broker behind a plugin's context."""
        found: Participants = context.shared.setdefault("participants", cls())
        return found

    def note(self, group: Group, plugin: object) -> None:
        """Add what is new in a group. Of several plugins that call, only the first one's calls count."""
        if self._owner is None:
            self._owner = plugin
        if self._owner is not plugin:
            return
        known = self._known
        pairs: list[tuple[str, str]] = []
        for append in group.appends:
            message = append.message
            found = known.get(message.topic)
            if found is not None and found[0] is append.recipients and message.user in found[1]:
                continue
            if append.error is None and append.store:
                pairs += self._new(message.topic, message.user, append)
        if pairs:
            group.operations.append(Join(pairs))

    def _new(self, topic: str, sender: str, append: Append) -> list[tuple[str, str]]:
        """Those of a message who are not known. That one came is found among 100,000 in milliseconds, as nothing of Python's
        own runs for each of the others."""
        found = self._known.get(topic)
        users = found[1] if found is not None else set()
        new = {sender} - users
        if found is None or found[0] is not append.recipients:
            new.update(filterfalse(users.__contains__, chain(append.recipients, readers_of(append))))
        users |= new
        self._pairs += len(new)
        self._known[topic] = (append.recipients, users)
        if self._pairs > self._limit:
            self._known.clear()
            self._pairs = 0
        return [(user, topic) for user in sorted(new) if not _is_nobody(user)]


def _is_nobody(user: str) -> bool:
    """Shared subscriptions' groups and the broker itself take part in nothing; of a channel its readers count instead."""
    return is_shared(user) or user.startswith(_BROKER)
