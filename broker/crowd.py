"""Whether several publish, so that one of them must leave room for the others. No I/O."""

from __future__ import annotations

from typing import Final

_ALONE: Final = 500
"""Groups of one publisher alone after which nobody else counts as there: a second or two."""


class Crowd:
    """Told of who submits, and of each group that is taken."""

    __slots__ = ("_alone", "_last", "_sources", "several")

    def __init__(self) -> None:
        self.several = False
        """In one of the last groups were messages of more than one source."""
        self._last: object = None
        self._sources = 0
        self._alone = 0

    def came(self, source: object) -> None:
        """The source has submitted messages."""
        if source is not self._last:
            self._last = source
            self._sources += 1

    def forget(self, source: object) -> None:
        """The source is gone."""
        if source is self._last:
            self._last = None

    def next_group(self) -> None:
        """What was submitted since the last call is a group."""
        if self._sources > 1:
            self.several = True
            self._alone = 0
        elif self.several:
            self._alone += 1
            self.several = self._alone < _ALONE
        self._last = None
        self._sources = 0
