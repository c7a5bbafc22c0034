"""A client of few packets, for what is timed packet by packet and needs no great load."""

from __future__ import annotations

import asyncio

from bench import wire


async def connected(port: int, client_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose CONNACK has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire.connect(client_id))
    await reader.readexactly(4)
    return reader, writer


async def packet(reader: asyncio.StreamReader) -> bytes:
    """The body of the next packet."""
    await reader.readexactly(1)
    length = shift = 0
    while True:
        (low,) = await reader.readexactly(1)
        length |= (low & 127) << shift
        shift += 7
        if not low & 128:
            return await reader.readexactly(length)


class Counted:
    """Counts the packets of a connection that have ``mark`` in them; faster than `packet`, where there are many."""

    def __init__(self, reader: asyncio.StreamReader, mark: bytes) -> None:
        self._reader = reader
        self.mark = mark
        self._kept = bytearray()

    async def wait(self, count: int) -> None:
        """Until so many more have come."""
        kept = self._kept
        while True:
            at = 0
            while count and (end := _end(kept, at)):
                count -= kept.find(self.mark, at, end) >= 0
                at = end
            del kept[:at]
            if not count:
                return
            more = await self._reader.read(1 << 16)
            if not more:
                raise asyncio.IncompleteReadError(bytes(kept), None)
            kept += more


def _end(data: bytearray, at: int) -> int:
    """Where a packet ends that begins ``at``; 0 where not all of it is there."""
    length = shift = 0
    for place in range(at + 1, min(at + 5, len(data))):
        length |= (data[place] & 127) << shift
        shift += 7
        if not data[place] & 128:
            end = place + 1 + length
            return end if end <= len(data) else 0
    return 0
