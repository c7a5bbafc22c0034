"""What a storage that can be exported, or imported into, offers: see `storage.factory`.

For a command's own process: a call may block its event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from storage.transfer.file import About
from storage.transfer.kinds import Record

Kind = type[BaseException] | None


class Source(Protocol):
    """A storage to be read beside its brokers. Entered, it is open; raises what `storage.interface.Storage.open` does."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: Kind, error: BaseException | None, at: TracebackType | None) -> None: ...

    lost: list[str]
    """Once `records` has ended: what of the entries of inboxes is damaged, a line each. Those that cannot be told are there as
    entries that count as removed."""

    async def about(self) -> About:
        """What is in it, as of about now."""

    def records(self) -> AsyncIterator[list[Record]]:
        """Everything, in the order of `KINDS`: what was committed when this began, and nothing that is half there."""


Report = Callable[[int, int], None]
"""Told how much is done, of how much."""


class Backup(Protocol):
    """A storage whose file can be copied as it is. Calls block."""

    @property
    def path(self) -> Path:
        """The file."""

    def save(self, file: Path, report: Report) -> None:
        """Copy it, as of one moment, beside a broker that writes. The copy has its name, and its checksum beside it, once it
        is whole. Raises what `Source` does, and OSError."""

    def restore(self, file: Path, aside: Path, report: Report) -> None:
        """Put a copy in the place of what is there, which gets the name ``aside``; as one step. The data has another epoch from
        here on. Raises `StorageUnusable` for what is no whole copy, and `StorageInUse` where a broker serves the data."""


class Target(Protocol):
    """An empty storage to be filled. Entered, it is nobody else's; raises `StorageUnusable` where it is not empty, and
    `StorageInUse` where a broker serves it. Left before `finish` has returned, it is as it was, also after a crash."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: Kind, error: BaseException | None, at: TracebackType | None) -> None: ...

    async def write(self, records: Sequence[Record]) -> None:
        """Add these, which passed `Sequences.check`. Raises `StorageUnusable` for what cannot be stored here."""

    async def finish(self) -> None:
        """Make it count, as one step; the data has another epoch from here on."""
