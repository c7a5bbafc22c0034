"""How much of the time indexing may take, and when it lets publishers go first."""

from __future__ import annotations

_ENOUGH = 1.0
"""Processors: as many as an indexer can use. The clock would not tell: who waits for one takes as long as who works."""
_YIELDING = 0.5
"""The least share of the time that is left to it: the processors are better used for publishing, and the burst will end."""


class Pace:
    """Says how long to rest after a page behind which there is more.

    ``share``: the part of the time, up to 1, to work in. Without ``yields`` it is never less, as where the work is a server's.

    Where more than a processor would be needed to keep up, working harder does not keep the index near. So it works the less,
    the more there is, but not all at once: a page of which the merges took long is no burst yet.
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
        needed = stored / max(elapsed, 1e-6) * computed / indexed
        if self._yields and needed > _ENOUGH:
            share = min(share, max(_YIELDING, _ENOUGH / needed))
        return worked * (1 / share - 1)
