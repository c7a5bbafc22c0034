"""Counts equal a plain substring search, whatever was added and removed before."""

from __future__ import annotations

import random

import pytest

from plugins.search.engine import Document, Engine, Query
from tests.search.corpus import START

LETTERS = "会议题天明三点开"
JOINTS = ["", "", "", "", "，", " ", " ok ", "。"]
QUERIES = ["会", "议", "会议", "议题", "明天", "三点开", "开会", "天明三", "会会", "点"]


def _text(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) + rng.choice(JOINTS) for _ in range(rng.randint(1, 12)))


@pytest.mark.parametrize("seed", range(3))
async def test_counts_equal_substring_search(engine: Engine, seed: int) -> None:
    rng = random.Random(seed)
    kept: dict[int, Document] = {}
    heads: dict[str, int] = {}
    number = 0
    for _ in range(25):
        batch = []
        for _ in range(rng.randint(1, 40)):
            number += 1
            topic = f"t/{rng.randrange(6)}"
            seq = heads[topic] = heads.get(topic, 0) + 1
            time = START + rng.randrange(200)  # out of order, and many in one millisecond
            batch.append(Document(number, topic, seq, f"u/{rng.randrange(3)}", "d", time, _text(rng)))
        await engine.index(batch, number)
        kept.update((document.id, document) for document in batch)
        if rng.random() < 0.5:
            gone = rng.sample(sorted(kept), min(len(kept), rng.randint(1, 15)))
            await engine.delete([*gone, 10_000])
            for id in gone:
                del kept[id]
        if rng.random() < 0.3:
            topic, before = f"t/{rng.randrange(6)}", rng.randint(1, 40)
            await engine.forget(topic, before)
            kept = {id: document for id, document in kept.items() if document.topic != topic or document.seq >= before}
    assert await engine.count() == len(kept)
    for q in QUERIES:
        await _compare(engine, kept, Query(q=q, limit=100))
        await _compare(engine, kept, Query(q=q, limit=100, sort="newest", topic_filter="t/+"))
        await _compare(engine, kept, Query(q=q, limit=100, sender="u/1", since=START + 50, until=START + 120, sort="oldest"))
        await _compare(engine, kept, Query(q=q, limit=100, conversations={"t/1", "t/4"}))


async def _compare(engine: Engine, kept: dict[int, Document], query: Query) -> None:
    expected = {
        document.id
        for document in kept.values()
        if query.q in document.text
        and query.permits(document.topic)
        and query.sender in ("", document.sender)
        and document.time >= query.since
        and (not query.until or document.time < query.until)
    }
    found: list[int] = []
    cursor = ""
    while True:
        page = await engine.search(
            Query(
                q=query.q,
                limit=100,
                sort=query.sort,
                topic_filter=query.topic_filter,
                sender=query.sender,
                since=query.since,
                until=query.until,
                conversations=query.conversations,
                cursor=cursor,
            )
        )
        assert page.total == len(expected), query
        found += [hit.id for hit in page.hits]
        cursor = page.next
        if not cursor:
            break
    assert len(found) == len(set(found))
    assert set(found) == expected, query
    if query.sort != "relevance":
        times = [kept[id].time for id in found]
        assert times == sorted(times, reverse=query.sort == "newest")
