"""How much of a group one publisher may have, so that the others wait for little. No I/O.

Who is alone may have all there is. Where several publish, one may have `TIMES` as many messages under way as any other has had
in the last groups. So those that publish as fast as each other share what there is, and one that floods the broker, beside
others with a message now and then, makes their groups little longer: who comes waits for the group under way and for its own.
"""

from __future__ import annotations

from typing import Final

_ALONE: Final = 500
"""Groups of one publisher alone after which nobody else counts as there: a second or two."""
_LAST: Final = 250
"""What was seen in a group is forgotten after so many more of them, or twice as many."""
TIMES: Final = 4


class Crowd:
    """Told of who submits, and of each group that is taken."""

    __slots__ = ("_alone", "_before", "_first", "_groups", "_last", "_most", "_second", "_seen", "_sources", "fair", "several")

    def __init__(self) -> None:
        self.several = False
        """In one of the last groups were messages of more than one source."""
        self.fair = 0
        """How many messages one of several may have under way: `TIMES` as many as the one that had most beside another."""
        self._last: object = None
        self._sources = 0
        self._alone = 0
        self._first: object = None
        """Who has most in this group, ``_most``; of the others one has ``_second``."""
        self._most = self._second = 0
        self._seen = self._before = 0
        """The highest ``_second`` of these `_LAST` groups, and of those before."""
        self._groups = 0

    def came(self, source: object, under_way: int) -> None:
        """The source has submitted messages, and has so many now that are not stored."""
        if source is not self._last:
            self._last = source
            self._sources += 1
        if source is self._first:
            if under_way > self._most:
                self._most = under_way
        elif under_way > self._most:
            self._first, self._second, self._most = source, self._most, under_way
        elif under_way > self._second:
            self._second = under_way

    def forget(self, source: object) -> None:
        """The source is gone."""
        if source is self._last:
            self._last = None
        if source is self._first:
            self._first = None

    def next_group(self) -> None:
        """What was submitted since the last call is a group."""
        if self._sources > 1:
            self.several = True
            self._alone = 0
        elif self.several:
            self._alone += 1
            self.several = self._alone < _ALONE
        if self._second > self._seen:
            self._seen = self._second
        self._groups += 1
        if self._groups == _LAST:
            self._groups = 0
            self._before, self._seen = self._seen, 0
        self.fair = TIMES * max(self._seen, self._before)
        self._last = self._first = None
        self._sources = self._most = self._second = 0
