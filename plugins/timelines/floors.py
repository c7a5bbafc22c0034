"""From where on somebody sees a conversation: asked of a plugin, where there is one that has something to say of it."""

from __future__ import annotations

from collections.abc import Iterable

from broker.amqtt import Services
from plugins.timelines.who import Who
from storage.records import Message


class Floors:
    """What a plugin extends that hides the beginning of a conversation from some."""

    async def floor(self, user: str, topic: str) -> int:
        """The last sequence that a user (key) does not see; 0 where there is none. Raises `StorageError`."""
        raise NotImplementedError(f"{type(self).__name__} hides nothing")


async def floor_of(server: Services, who: Who, topic: str) -> int:
    """The last sequence of a topic that a caller does not see."""
    floors = None if who.operator else server.plugin(Floors)
    return 0 if floors is None else await floors.floor(who.user, topic)


async def seen(server: Services, who: Who, messages: Iterable[Message]) -> set[int]:
    """The ids of those of some messages that a caller sees, of topics that it may read."""
    floors: dict[str, int] = {}
    ids = set()
    for message in messages:
        if message.topic not in floors:
            floors[message.topic] = await floor_of(server, who, message.topic)
        if message.seq > floors[message.topic]:
            ids.add(message.id)
    return ids
