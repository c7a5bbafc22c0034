"""Retained messages by topic, counted, and by when they expire."""

from __future__ import annotations

import pytest

from storage.interface import Storage
from storage.names import prefix_end
from storage.records import DropRetained, Message
from tests.storage.samples import START, Maker, all_retained, fields_of

TOPICS: tuple[str, ...] = ("a", "a/b", "a/b/c", "a/\ud7ff", "a/\ue000x", "a0", "b", "\u00e9", "\ud7ff\u00e9", "$x/y", "A/b")
TOPICS += ("\U0010ffff", "\U0010ffff/x")


async def topics(storage: Storage, prefix: str, limit: int) -> list[str]:
    """The topics of a range, read in pages."""
    found: list[str] = []
    while page := await storage.retained_range(prefix, found[-1] if found else "", limit):
        assert len(page) <= limit
        found += [message.topic for message in page]
    return found


async def test_a_range_is_in_the_order_of_topics(storage: Storage, make: Maker) -> None:
    """Whole messages, those of the prefix and no other; what was cleared is not among them."""
    gone = [make.append(f"a/b/{n}", retain=True) for n in range(3)]
    kept = [make.append(topic, retain=True, properties=b"p") for topic in TOPICS]
    await storage.commit([*gone, *kept, make.append("a/never")])
    await storage.commit([make.append(append.message.topic, retain=True, payload=b"") for append in gone])
    by_topic = {append.message.topic: fields_of(append.message) for append in kept}
    for prefix in ("", *TOPICS, "a/", "b/", "c", "\U0010ffff/"):
        wanted = sorted(topic for topic in TOPICS if topic.startswith(prefix))
        for limit in (1, 2, 100):
            assert await topics(storage, prefix, limit) == wanted, prefix
        whole = [fields_of(message) for message in await storage.retained_range(prefix, "", 100)]
        assert whole == [by_topic[topic] for topic in wanted], prefix
        assert await storage.retained_range(prefix, "\U0010ffff\U0010ffff", 100) == [], prefix


async def test_a_range_begins_behind_a_topic_that_need_not_be_there(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append(topic, retain=True) for topic in TOPICS])
    assert [m.topic for m in await storage.retained_range("a/", "A", 100)] == ["a/b", "a/b/c", "a/\ud7ff", "a/\ue000x"]
    assert [m.topic for m in await storage.retained_range("a/", "a/b/b", 2)] == ["a/b/c", "a/\ud7ff"]
    assert await storage.retained_range("a/", "b", 100) == []


async def test_a_range_is_bounded_in_bytes(storage: Storage, make: Maker) -> None:
    await storage.commit([make.append(f"r/{n}", retain=True, payload=b"x" * 1000) for n in range(9)])
    assert len(await storage.retained_range("r/", "", 9, max_bytes=2500)) == 3
    assert len(await storage.retained_range("r/", "", 9, max_bytes=1)) == 1


async def test_they_are_counted(storage: Storage, make: Maker) -> None:
    assert await storage.retained_count() == 0
    first = make.append("r/1", retain=True)
    await storage.commit([first, make.append("r/2", retain=True), make.append("r/3", retain=True), make.append("r/4")])
    await storage.commit([make.append("r/1", retain=True), make.append("r/2", retain=True, payload=b"")])
    assert await storage.retained_count() == 2
    await storage.commit([DropRetained([("r/1", first.message.id)])])
    assert await storage.retained_count() == 2
    (kept,) = [m for m in await all_retained(storage) if m.topic == "r/1"]
    await storage.commit([DropRetained([("r/1", kept.id)])])
    assert await storage.retained_count() == 1


async def test_those_that_expired_are_found_until_they_are_dropped(storage: Storage, make: Maker) -> None:
    """The first to expire first; not one that was replaced, cleared, or never expires."""
    expiring = [make.append(f"r/{n}", retain=True, expires=START + 100 - n) for n in range(6)]
    await storage.commit([*expiring, make.append("r/never", retain=True), make.append("r/stored", expires=START + 1)])
    await storage.commit([make.append("r/4", retain=True), make.append("r/5", retain=True, payload=b"")])

    def pair(message: Message) -> tuple[str, int]:
        return message.topic, message.id

    wanted = [pair(append.message) for append in reversed(expiring[:4])]
    assert await storage.retained_expired(START + 96, 10) == []
    assert await storage.retained_expired(START + 98, 10) == wanted[:2]
    for _ in range(2):
        assert await storage.retained_expired(START + 1000, 10) == wanted
        assert await storage.retained_expired(START + 1000, 3) == wanted[:3]
    await storage.commit([DropRetained(wanted[:3])])
    assert await storage.retained_expired(START + 1000, 10) == wanted[3:]
    again = make.append("r/3", retain=True, expires=START + 5)
    await storage.commit([again])
    assert await storage.retained_expired(START + 1000, 10) == [pair(again.message), *wanted[3:]]


@pytest.mark.parametrize("prefix", ["a", "a/", "\ud7ff", "a\ud7ff", "a\U0010ffff", "\u007f", "\uffff"])
def test_the_end_of_a_prefix(prefix: str) -> None:
    """Behind all that begin with it, and before all else that comes behind them."""
    end = prefix_end(prefix)
    assert prefix + "\U0010ffff" * 3 < end
    assert end.encode()
    assert not end.startswith(prefix)
    assert end[:-1] == prefix[: len(end) - 1]
    assert prefix_end("") == prefix_end("\U0010ffff") == ""
