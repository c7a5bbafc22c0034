"""What is found damaged in a storage, and mended: see docs/backup.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

TOLD = 20
"""Places of one kind of damage that are told; all are counted."""
Report = Callable[[str], None]
"""Told what is looked at now."""


class Finding(NamedTuple):
    """One kind of damage. ``places``: the first `TOLD` of ``number``; ``mended``: what was done about it, or would be;
    empty where nothing can be."""

    kind: str
    what: str
    number: int
    places: list[str]
    mended: str


class Verifier(Protocol):
    """Of one database. For a command's own process: a call may block its event loop."""

    async def check(self, report: Report) -> list[Finding]:
        """What is wrong, beside brokers that run. Raises what opening the storage does."""

    async def repair(self, report: Report) -> list[Finding]:
        """Mend what can be mended; what was found. Raises `StorageInUse` where a broker runs."""


class Damage(NamedTuple):
    """A kind of damage, and the query, if it is one, that finds it in a SQLite file. Its rows are what `place` and a mender
    need to know."""

    kind: str
    what: str
    query: str
    place: str
    mended: str

    def finding(self, rows: list[tuple[Any, ...]]) -> Finding:
        """What is told of it."""
        return Finding(self.kind, self.what, len(rows), [self.place.format(*row) for row in rows[:TOLD]], self.mended)
