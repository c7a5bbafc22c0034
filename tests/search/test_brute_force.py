"""What is found is what a plain search through the texts finds, whatever was added and removed before."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from plugins.search.engine import Document, Engine, Query
from plugins.search.terms import matches, parse
from tests.search.corpus import START
from tests.support.seeds import seeds

LETTERS = "会议题天明三点开"
JOINTS = ["", "", "", "", "，", " ", " ok ", "。"]
QUERIES = ["会", "议", "会议", "议题", "明天", "三点开", "开会", "天明三", "会会", "点"]


def _text(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) + rng.choice(JOINTS) for _ in range(rng.randint(1, 12)))


@pytest.mark.parametrize("seed", seeds(0, more=[1, 2]))
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
        await engine.index(batch, {0: number})
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


PARTS = ["ab", "abc", "12", "1234", "192", "168", "0", "foo", "barbaz", "barbax", "can", "t", "tell"]
GAPS = [" ", "-", "_", ".", "/", "'", ", ", ":", "@", " @ ", "#", "+"]
SEPARATES, SYMBOLS = r"[ \-_./',:]", "@#+"


def _written(rng: random.Random, size: int, gaps: list[str]) -> list[str]:
    """Parts and what stands between them, by turns."""
    written = [rng.choice(PARTS)]
    for _ in range(size):
        written += [rng.choice(gaps), rng.choice(PARTS)]
    return written


def _by_hand(written: list[str], whole: bool) -> re.Pattern[str]:
    """The texts that have the parts side by side: symbols as they are, and any punctuation where there is some."""
    pattern = r"(?<![a-z0-9])"
    for part in written:
        if part.isalnum():
            pattern += part
        elif part in SYMBOLS:
            pattern += f"{SEPARATES}*{re.escape(part)}{SEPARATES}*"
        else:
            pattern += f"{SEPARATES}+"
    return re.compile(pattern + (r"(?![a-z0-9])" if whole else ""))


@pytest.mark.parametrize("seed", seeds(0, more=[1, 2]))
async def test_what_is_written_joined_is_found_side_by_side(engine: Engine, seed: int) -> None:
    rng = random.Random(seed)
    texts = _texts(rng)
    await engine.index([Document(n, "t", n, "u/a", "d", START + n, text) for n, text in texts.items()], {0: 400})
    found_some = 0
    for q, expected in _asked(rng, texts):
        results = await engine.search(Query(q=q, limit=100, sort=rng.choice(["relevance", "newest", "oldest"])))
        assert results.total == len(expected), q
        assert {hit.id for hit in results.hits} <= expected, q
        found_some += bool(expected)
    assert found_some > 25


@pytest.mark.parametrize("seed", seeds(0, more=[1, 2]))
def test_what_is_written_joined_matches_side_by_side(seed: int) -> None:
    """Where no index is asked."""
    rng = random.Random(seed)
    texts = _texts(rng)
    for q, expected in _asked(rng, texts):
        assert {number for number, text in texts.items() if matches(text, parse(q))} == expected, q


def _texts(rng: random.Random) -> dict[int, str]:
    return {number: "".join(_written(rng, rng.randint(2, 7), GAPS)) for number in range(1, 401)}


def _asked(rng: random.Random, texts: dict[int, str]) -> Iterator[tuple[str, set[int]]]:
    """Queries, and which of the texts each must find."""
    for _ in range(120):
        written = _written(rng, rng.randint(1, 3), [gap for gap in GAPS if " " not in gap])
        if rng.random() < 0.5:
            written[-1] = written[-1][: rng.randint(1, len(written[-1]))]
        end = rng.choice(["", " "])
        q = "".join(written) + end
        hand = _by_hand(written, whole=bool(end) or q.endswith(("'t", "'d", "'s", "'m", "'ll", "'re", "'ve")))
        yield q, {number for number, text in texts.items() if hand.search(text)}
