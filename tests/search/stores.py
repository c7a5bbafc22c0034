"""Stores to index: a made-up one that is the same in every process, and messages for the memory storage."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from functools import cache

from storage.interface import Newest, Storage, TailPage, page_of_ids
from storage.records import Append, Message, Row
from tests.search.corpus import START

TOPICS = 7


@cache
def made_up(number: int) -> Message:
    """The message with this id: the same wherever and whenever it is asked for."""
    rng = random.Random(number)
    words = rng.choices(["会议", "明天", "meeting", "report", "天气，", "budget "], k=rng.randint(1, 8))
    payload = b"\xff\xfe" if rng.random() < 0.1 else "".join(words).encode()
    seq = (number + TOPICS - 1) // TOPICS
    return Message(number, f"t/{number % TOPICS}", f"u/{number % 3}", "d", START + number, 1, payload, seq=seq)


class MadeUpStore:
    """A store of ``size`` made-up messages; ``kept`` is the first that retention has left."""

    def __init__(self, size: int, kept: int = 1) -> None:
        self.size = size
        self.kept = kept

    async def last_id(self) -> int:
        return self.size

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        first = max(after_id + 1, self.kept)
        return [made_up(number) for number in range(first, min(first + limit, self.size + 1))]

    async def tails(self) -> dict[int, int]:
        return {0: self.size}

    async def read_tail_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TailPage:
        page = await self.read_tail(after, limit, max_bytes)
        return page_of_ids([message for message in page if message.id <= through], through)

    async def rows(self, table: str, part: str, **_: object) -> list[Row]:
        return []

    async def conversation_bounds(self, topic: str) -> tuple[int, int]:
        seqs = [made_up(number).seq for number in range(self.kept, self.size + 1) if made_up(number).topic == topic]
        return (seqs[0], seqs[-1]) if seqs else (1, 0)

    async def read_conversation(self, topic: str, **_: object) -> list[Message]:
        raise NotImplementedError

    async def newest(self, topics: Sequence[str]) -> list[Newest]:
        raise NotImplementedError

    async def sequence_at(self, topic: str, time: int) -> int:
        raise NotImplementedError

    async def read_message(self, message_id: int) -> Message | None:
        return made_up(message_id) if self.kept <= message_id <= self.size else None

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        return [made_up(number) for number in ids if self.kept <= number <= self.size]

    async def conversations(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[str, int, int]]:
        for topic in sorted(f"t/{number}" for number in range(TOPICS)):
            first, last = await self.conversation_bounds(topic)
            if topic.startswith(prefix) and topic > after and last:
                yield topic, first, last

    async def inboxes(self) -> AsyncIterator[tuple[str, int, int]]:
        for _ in ():
            yield _


class Publisher:
    """Commits messages to a storage, with rising ids."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.last = 0

    async def publish(self, *texts: str | bytes, topic: str = "chat/a", user: str = "u/ann") -> list[Message]:
        """Commit one group."""
        messages = []
        for text in texts:
            self.last += 1
            payload = text.encode() if isinstance(text, str) else text
            messages.append(Message(self.last, topic, user, "phone", START + self.last, 1, payload))
        await self.commit(messages)
        return messages

    async def commit(self, messages: Sequence[Message]) -> None:
        """Commit messages as one group."""
        await self.storage.commit([Append(message) for message in messages])
