"""How much of the time indexing may take, and when it lets publishers go first."""

from __future__ import annotations

_HOPELESS = 1.0
"""Messages stored in the processor time in which one is indexed, from which on working harder does not keep the index near: a
core of its own would be too slow. The clock would not tell: who waits for a processor takes as long as who works."""
_YIELDING = 0.5
"""The share of the time that is left to it then: the processors are better used for publishing, and the burst will end."""


class Pace:
    """Says how long to rest after a page behind which there is more.

    ``share``: the part of the time, up to 1, to work in. Without ``yields`` it is never less, as where the work is a server's.
    """

    def __init__(self, share: float, *, yields: bool = True) -> None:
        self._share = share
        self._yields = yields
        self._stored = 0
        self._looked = 0.0

    def stored(self, messages: int) -> None:
        """So many messages were committed."""
        self._stored += messages

    def rest(self, now: float, worked: float, computed: float, indexed: int) -> float:
        """Seconds to rest at ``now``, after ``indexed`` messages took ``worked`` seconds, and ``computed`` of a processor's."""
        stored, elapsed = self._stored, now - self._looked
        self._stored, self._looked = 0, now
        share = self._share
        if self._yields and stored * computed > _HOPELESS * indexed * elapsed:
            share = min(share, _YIELDING)
        return worked * (1 / share - 1)
