"""Forgetting the edits of, and the reactions to, what retention has removed."""

from __future__ import annotations

from broker.amqtt import Services
from plugins.edit_rows import TABLE, TAKEN
from plugins.reaction_rows import COUNTS, GIVEN
from storage.records import DropRow, Operation

PAGE = 500
_TIMEOUT = 10.0


async def tidy(server: Services) -> int:
    """Drop the rows of messages that the store has no more; how many those were. Raises as `Services.commit`."""
    dropped = 0
    for table in (TABLE, GIVEN, COUNTS):
        async for topics in server.storage.parts(table):
            for topic in topics:
                dropped += await _tidy_topic(server, table, topic)
    async for topics in server.storage.parts(TAKEN):
        for topic in topics:
            dropped += await _tidy_taken(server, topic)
    return dropped


async def _tidy_taken(server: Services, topic: str) -> int:
    """These are by the id of the message that recalls."""
    first = await server.storage.read_conversation(topic, limit=1)
    kept = f"{first[0].id:016x}" if first else "g"  # which is behind all of them
    dropped = 0
    while old := [row.key for row in await server.storage.rows(TAKEN, topic, limit=PAGE) if row.key < kept]:
        await server.commit([DropRow(TAKEN, topic, key) for key in old], _TIMEOUT)
        dropped += len(old)
    return dropped


async def _tidy_topic(server: Services, table: str, topic: str) -> int:
    first, _ = await server.storage.conversation_bounds(topic)
    dropped = 0
    while True:
        page = await server.storage.rows(table, topic, limit=PAGE)
        old: list[Operation] = [DropRow(table, topic, row.key) for row in page if int(row.key[:16]) < first]
        if old:
            await server.commit(old, _TIMEOUT)
            dropped += len(old)
        if len(old) < PAGE:
            return dropped
