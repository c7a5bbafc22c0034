"""Where the bytes are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple, Protocol


class PiecesAway(Exception):
    """The directory or the service does not take or give pieces now. The text names no path of a caller's."""


class Found(NamedTuple):
    """A piece that is there, and how old it is (seconds)."""

    name: str
    age: float


class Pieces(Protocol):
    """Keeps pieces by names of ours. Each call raises `PiecesAway`."""

    async def open(self) -> None:
        """Whether it can be used at all, found out before clients can connect."""

    async def put(self, name: str, data: bytes) -> None:
        """Durable when this returns. No name is given twice."""

    async def get(self, name: str, start: int, end: int) -> bytes:
        """The bytes from ``start`` up to ``end``."""

    async def drop(self, names: Iterable[str]) -> None:
        """Remove them; those that are not there are passed over."""

    async def clear(self, id: str) -> None:
        """Remove all of one attachment, also what a kill left of an upload."""

    def every(self) -> AsyncIterator[list[Found]]:
        """All that are there, some at a time."""

    async def close(self) -> None:
        """What is under way ends first."""
