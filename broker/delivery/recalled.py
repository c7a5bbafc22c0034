"""What was recalled a moment ago: whatever memory still has of it is sent without its content. No I/O.

Pages that were read, entries that were pushed and frames that were built before a recall hold the content, on every node. What
is sent passes here, so they need not be looked for.
"""

from __future__ import annotations

from storage.records import Message

KEPT = 100_000
"""Messages: by so many more recalls what was read before the first of them has been sent."""


class Recalled:
    """By message id, the id of the message that recalled it; the last `KEPT`."""

    __slots__ = ("_by",)

    def __init__(self) -> None:
        self._by: dict[int, int] = {}

    def add(self, ids: list[int], by: int) -> None:
        """These are recalled from now on."""
        known = self._by
        for message_id in ids:
            known.setdefault(message_id, by)
        while len(known) > KEPT:
            del known[next(iter(known))]

    def __contains__(self, message_id: int) -> bool:
        return message_id in self._by

    def shown(self, message: Message) -> Message:
        """The message as it may be sent: itself, or what is left of it."""
        by = self._by.get(message.id) if self._by else None
        return message if by is None else message.without_content(by)
