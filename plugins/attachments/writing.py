"""One request's way into an attachment: what comes is cut into pieces, and each counts when it is durable.

A request with a checksum counts as a whole, or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from plugins.attachments.record import PIECE, Record
from plugins.attachments.tus import Checksum
from plugins.timelines.errors import Away, TooLarge

_PATIENCE = 60.0
"""Seconds that a caller may send nothing."""


class Takes(Protocol):
    """What keeps attachments: `plugins.attachments.uploads.Uploads`, see there."""

    async def pace(self, user: str, size: int, ending: asyncio.Event) -> None: ...

    async def write(self, record: Record, data: bytes) -> None: ...

    async def store(self, record: Record, stored: Record) -> None: ...

    async def give_up(self, record: Record, stored: Record) -> None: ...


class Writing:
    """See the module. ``ending``: the broker ends."""

    def __init__(self, uploads: Takes, record: Record, checksum: Checksum | None, ending: asyncio.Event) -> None:
        self._uploads = uploads
        self._record = record
        self._stored = record.copy()
        self._checksum = checksum
        self._ending = ending
        self._come = bytearray()

    async def add(self, data: bytes) -> None:
        """More has come."""
        record = self._record
        if record.offset + len(self._come) + len(data) > record.length:
            raise TooLarge(f"more came than Upload-Length {record.length} says")
        if self._checksum is not None:
            self._checksum.update(data)
        self._come += data
        await self._uploads.pace(record.user, len(data), self._ending)
        while len(self._come) >= PIECE:
            await self._write(PIECE)

    async def _write(self, size: int) -> None:
        data = bytes(self._come[:size])
        await self._uploads.write(self._record, data)
        del self._come[:size]
        if self._checksum is None:
            await self._store()

    async def _store(self) -> None:
        await self._uploads.store(self._record, self._stored)
        self._stored = self._record.copy()

    async def broken(self) -> None:
        """The request ends early: keep what came, or with a checksum nothing."""
        if self._checksum is not None:
            await self._uploads.give_up(self._record, self._stored)
        elif self._come:
            await self._write(len(self._come))

    async def end(self) -> Record:
        """All has come."""
        try:
            if self._checksum is not None:
                self._checksum.check()
        except BaseException:
            await self._uploads.give_up(self._record, self._stored)
            raise
        if self._come:
            await self._write(len(self._come))
        if self._checksum is not None and self._record.pieces != self._stored.pieces:
            await self._store()
        return self._record


async def patient(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What comes, unless nothing does for too long."""
    while True:
        try:
            async with asyncio.timeout(_PATIENCE):
                data = await anext(body)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Away(f"nothing came for {_PATIENCE:g} s") from None
        if data:
            yield data
