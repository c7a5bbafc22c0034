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
