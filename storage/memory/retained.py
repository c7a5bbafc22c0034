"""The retained messages of a storage in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from heapq import heapify, heappop, heappush

from storage.records import Message


class Retained:
    """Each topic's last message, by topic, by id, and by when it expires."""

    def __init__(self) -> None:
        self._held: dict[str, Message] = {}
        self._ids: dict[int, str] = {}
        self._topics: list[str] | None = None
        """Those that are held, in order; None where that has to be found out."""
        self._expiring: list[tuple[int, int]] = []
        """A heap of (when it expires, id), also of some that were replaced or dropped since."""

    @property
    def count(self) -> int:
        """How many topics have one."""
        return len(self._held)

    def put(self, message: Message) -> None:
        """Replace the topic's message; an empty payload clears it."""
        known = self._held.pop(message.topic, None)
        if known is not None:
            del self._ids[known.id]
        if (known is None) == bool(message.payload):
            self._topics = None
        if not message.payload:
            return
        self._held[message.topic] = message
        self._ids[message.id] = message.topic
        if message.expires:
            heappush(self._expiring, (message.expires, message.id))
            if len(self._expiring) > 2 * len(self._held) + 64:  # more than half are gone
                self._expiring = [(m.expires, m.id) for m in self._held.values() if m.expires]
                heapify(self._expiring)

    def drop(self, topic: str, message_id: int) -> None:
        """Forget the topic's message, unless it has another one by now."""
        if self._ids.pop(message_id, None) is not None:
            del self._held[topic]
            self._topics = None

    def by_id(self, message_id: int) -> Message | None:
        """The message with this id, if it is retained."""
        topic = self._ids.get(message_id)
        return None if topic is None else self._held[topic]

    def page(self, prefix: str, after: str, limit: int, max_bytes: int) -> list[Message]:
        """See `storage.interface.RetainedReader.retained_range`."""
        if self._topics is None:
            self._topics = sorted(self._held)
        found: list[Message] = []
        topics, size = self._topics, 0
        for place in range(max(bisect_left(topics, prefix), bisect_right(topics, after)), len(topics)):
            if len(found) >= limit or size >= max_bytes or not topics[place].startswith(prefix):
                break
            message = self._held[topics[place]]
            found.append(message)
            size += len(message.payload)
        return found

    def expired(self, now: int, limit: int) -> list[tuple[str, int]]:
        """See `storage.interface.RetainedReader.retained_expired`."""
        due: list[tuple[int, int]] = []
        while self._expiring and self._expiring[0][0] <= now and len(due) < limit:
            entry = heappop(self._expiring)
            if entry[1] in self._ids:
                due.append(entry)
        for entry in due:  # until they are dropped they are found again
            heappush(self._expiring, entry)
        return [(self._ids[message_id], message_id) for _, message_id in due]
