"""Which messages of a cluster came already, so that each comes once, whoever tells it. No I/O.

A node tells its own messages by rising id. What another node tells for it comes out of turn: the messages of a node that died
before it had told them, and one that its publisher sent to another node again. So what a node told itself is known by the last
id, and what came out of turn by each id.
"""

from __future__ import annotations

from storage.cluster import number_of

_MOST_LATE = 200_000
"""More than a node tells from one beat to the next: only what came behind its last beat is told for it."""


class Heard:
    """One node's memory."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        """By the number of a node, the highest id of what it told itself."""
        self._late: dict[int, None] = {}

    def is_first(self, message_id: int, teller: int) -> bool:
        """Whether the message comes for the first time, as a node of the number ``teller`` tells it. One that has no id (0), as
        it is stored nowhere, always does."""
        if not message_id:
            return True
        number = number_of(message_id)
        if message_id <= self._last.get(number, 0):
            return False
        late = self._late
        if number == teller:
            self._last[number] = message_id
            return not late or message_id not in late
        if message_id in late:
            return False
        late[message_id] = None
        if len(late) > _MOST_LATE:
            del late[next(iter(late))]
        return True
