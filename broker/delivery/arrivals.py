"""The node's own log of what arrived for its clean sessions, in a cluster: their timeline. No I/O.

Messages of all nodes arrive here in some order, which is this node's; each has a number in it, from 1 and without gaps. The log
has the ids of the last ones; a session that is behind reads the messages by id from the store. With one node the ids
themselves are the timeline, as they rise in the order of commits.
"""

from __future__ import annotations

from array import array

_KEPT = 1_000_000


class ArrivalLog:
    """The last ``kept`` ids at least, and up to twice as many."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._ids = array("q")
        self._gone = 0
        """How many were let go."""

    @property
    def last(self) -> int:
        """The number of the last arrival; 0 where there was none."""
        return self._gone + len(self._ids)

    @property
    def first(self) -> int:
        """The number of the oldest one that the log has."""
        return self._gone + 1

    def append(self, message_id: int) -> int:
        """A message arrived; its number."""
        ids = self._ids
        ids.append(message_id)
        if len(ids) >= 2 * self._kept:
            del ids[: self._kept]
            self._gone += self._kept
        return self._gone + len(ids)

    def after(self, number: int, limit: int) -> list[tuple[int, int]]:
        """(number, id) of up to ``limit`` arrivals with a number above that one, of those that the log has."""
        at = max(0, number - self._gone)
        return list(enumerate(self._ids[at : at + limit], self._gone + at + 1))
