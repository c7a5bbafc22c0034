"""Nobody learns of a message in a conversation that they may not read: not by hits, totals, order or pages."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

import plugins.search.fts5_search as fts5_search
from plugins.search.engine import Document, Engine, Query
from plugins.search.fts5 import Fts5Engine
from tests.search.corpus import START

WORDS = ["meeting", "meetings", "report", "budget", "会议", "议题", "预算", "secret", "deployment"]


def _corpus(topics: int) -> list[Document]:
    rng = random.Random(5)
    made = []
    heads: dict[str, int] = {}
    for number in range(1, 301):
        topic = f"{rng.choice(['open', 'closed'])}/{rng.randrange(topics)}"
        seq = heads[topic] = heads.get(topic, 0) + 1
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
        made.append(Document(number, topic, seq, f"u/{rng.randrange(4)}", "d", START + number, text))
    made.append(Document(301, "closed/1", 999, "u/hidden", "d", START + 301, "classified submarine"))
    return made


def _may_read(topic: str) -> bool:
    return topic.startswith("open/")


QUERIES = [
    Query(q="meeting "),
    Query(q="meeting", sort="newest"),
    Query(q="会议", sort="oldest"),
    Query(q="report budget "),
    Query(q='"report budget"'),
    Query(q="meetinq "),
    Query(q="classified"),
    Query(q="clasified "),
    Query(q="submarine ", sort="newest"),
    Query(q="s"),
    Query(),
    Query(sort="oldest"),
    Query(sender="u/hidden"),
    Query(sender="u/1", sort="newest"),
    Query(q="meeting ", topic_filter="#"),
    Query(q="meeting ", topic_filter="closed/#"),
    Query(q="meeting ", conversations={"closed/1", "open/1"}),
    Query(conversations={"closed/1"}),
    Query(q="会议", since=START + 100, until=START + 200),
]


async def _walk(engine: Engine, query: Query) -> list[object]:
    """Everything that can be seen of the answer, page by page."""
    seen: list[object] = []
    while True:
        page = await engine.search(query)
        seen += [page.total, [hit._replace(id=0) for hit in page.hits], bool(page.next)]
        if not page.next:
            return seen
        query = replace(query, cursor=page.next)


Restrict = Callable[[list[Document]], Query]


@pytest.mark.parametrize("topics", [3, 200])
@pytest.mark.parametrize("kind", ["set", "rule"])
async def test_the_answer_is_that_of_an_index_without_the_rest(
    make_engine: Callable[[], Engine], engine: Engine, tmp_path: Path, topics: int, kind: str
) -> None:
    everything = _corpus(topics)
    visible = [document for document in everything if _may_read(document.topic)]
    allowed = _may_read if kind == "rule" else {f"open/{number}" for number in range(topics)}
    await engine.index(everything, 301)
    with_all = [await _walk(engine, replace(query, limit=7, allowed=allowed)) for query in QUERIES]
    await engine.delete([document.id for document in everything if document not in visible])
    alone = [await _walk(engine, replace(query, limit=7)) for query in QUERIES]
    assert with_all == alone
    assert any(seen[0] for seen in alone)


@pytest.fixture
async def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fts5Engine]:
    """The embedded engine where conversations are too many to list, so that each match is asked about."""
    monkeypatch.setattr(fts5_search, "LISTED", 5)
    engine = Fts5Engine(tmp_path / "wide.db")
    await engine.open()
    yield engine
    await engine.close()


async def test_asking_about_each_match_leaks_nothing_either(wide: Fts5Engine) -> None:
    everything = _corpus(50)
    await wide.index(everything, 301)
    asked: list[str] = []

    def allowed(topic: str) -> bool:
        asked.append(topic)
        return _may_read(topic)

    with_all = []
    for query in QUERIES:
        asked.clear()
        with_all.append(await _walk(wide, replace(query, limit=100, allowed=allowed)))
        pages = 1 + sum(1 for part in with_all[-1] if part is True)
        assert len(asked) <= 100 * pages, "a conversation is asked about once per page"
    await wide.delete([document.id for document in everything if not _may_read(document.topic)])
    assert with_all == [await _walk(wide, replace(query, limit=100)) for query in QUERIES]


async def test_permission_is_asked_anew_for_every_page(engine: Engine) -> None:
    await engine.index([Document(n, "t/1", n, "u/a", "d", START + n, "common") for n in range(1, 31)], 30)
    for sort in ("relevance", "newest", "oldest"):
        first = await engine.search(Query(q="common ", sort=sort, limit=10, allowed={"t/1"}))
        assert first.total == 30
        second = await engine.search(Query(q="common ", sort=sort, limit=10, cursor=first.next, allowed=set()))
        assert (second.hits, second.total, second.next) == ([], 0, "")
        third = await engine.search(Query(q="common ", sort=sort, limit=10, cursor=first.next, allowed=lambda topic: False))
        assert (third.hits, third.total, third.next) == ([], 0, "")


async def test_a_conversation_that_appears_meanwhile_is_not_shown_before_it_was_asked_about(engine: Engine) -> None:
    known = {"t/1"}
    await engine.index([Document(1, "t/1", 1, "u/a", "d", START, "common")], 1)
    await engine.index([Document(2, "t/2", 1, "u/a", "d", START, "common")], 2)
    assert (await engine.search(Query(q="common ", allowed=known))).total == 1
    assert (await engine.search(Query(q="common ", allowed=lambda topic: topic in known))).total == 1
