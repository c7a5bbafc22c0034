"""Nobody learns of a message in a conversation that they may not read: not by hits, totals, order or pages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

import plugins.search.fts5_scope as fts5_scope
import plugins.search.fts5_search as fts5_search
import plugins.search.permission as permission
from plugins.search.engine import Document, Engine, Query
from plugins.search.fts5 import Fts5Engine
from plugins.search.permission import MAX_ASKED, search_permitted
from plugins.search.service import MayRead
from tests.search.corpus import START
from tests.support.seeds import seeds

WORDS = ["meeting", "meetings", "report", "budget", "会议", "议题", "预算", "secret", "deployment"]


SORTS: tuple[Literal["relevance", "newest", "oldest"], ...] = ("relevance", "newest", "oldest")


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


class Asked:
    """Answers whether a topic may be read, and counts how often it was asked."""

    def __init__(self, may_read: Callable[[str], bool] = _may_read) -> None:
        self._may_read = may_read
        self.topics: list[str] = []

    async def __call__(self, topic: str) -> bool:
        self.topics.append(topic)
        return self._may_read(topic)


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


async def _walk(engine: Engine, query: Query, may_read: MayRead | None = None) -> list[object]:
    """Everything that can be seen of the answer, page by page."""
    seen: list[object] = []
    while True:
        page = await (engine.search(query) if may_read is None else search_permitted(engine, query, may_read))
        seen += [page.total, page.exact, [hit._replace(id=0) for hit in page.hits], bool(page.next)]
        if not page.next:
            return seen
        query = replace(query, cursor=page.next)


@pytest.mark.parametrize("topics", [3, 200])
@pytest.mark.parametrize("kind", ["listed", "asked"])
async def test_the_answer_is_that_of_an_index_without_the_rest(
    make_engine: Callable[[], Engine], engine: Engine, tmp_path: Path, topics: int, kind: str
) -> None:
    everything = _corpus(topics)
    visible = [document for document in everything if _may_read(document.topic)]
    allowed = {f"open/{number}" for number in range(topics)}
    await engine.index(everything, {0: 301})
    if kind == "listed":
        with_all = [await _walk(engine, replace(query, limit=31, allowed=allowed)) for query in QUERIES]
    else:
        with_all = [await _walk(engine, replace(query, limit=31), Asked()) for query in QUERIES]
    await engine.delete([document.id for document in everything if document not in visible])
    alone = [await _walk(engine, replace(query, limit=31)) for query in QUERIES]
    assert with_all == alone
    assert any(seen[0] for seen in alone)


@pytest.fixture
async def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fts5Engine]:
    """The embedded engine where conversations are too many to list, so that those of the matches are looked at."""
    monkeypatch.setattr(fts5_scope, "LISTED", 5)
    engine = Fts5Engine(tmp_path / "wide.db")
    await engine.open()
    yield engine
    await engine.close()


async def test_a_wide_topic_filter_leaks_nothing_either(wide: Fts5Engine) -> None:
    everything = _corpus(50)
    await wide.index(everything, {0: 301})
    with_all = [await _walk(wide, replace(query, limit=100), Asked()) for query in QUERIES]
    await wide.delete([document.id for document in everything if not _may_read(document.topic)])
    assert with_all == [await _walk(wide, replace(query, limit=100)) for query in QUERIES]


async def test_no_topic_is_asked_about_twice_for_a_page(engine: Engine) -> None:
    await engine.index(_corpus(200), {0: 301})
    for query in QUERIES:
        asked = Asked()
        await search_permitted(engine, query, asked)
        assert len(asked.topics) == len(set(asked.topics))


async def test_permission_is_asked_anew_for_every_page(engine: Engine) -> None:
    await engine.index([Document(n, "t/1", n, "u/a", "d", START + n, "common") for n in range(1, 31)], {0: 30})
    for sort in ("relevance", "newest", "oldest"):
        first = await engine.search(Query(q="common ", sort=sort, limit=10, allowed={"t/1"}))
        assert first.total == 30
        second = await engine.search(Query(q="common ", sort=sort, limit=10, cursor=first.next, allowed=set()))
        assert (second.hits, second.total, second.next) == ([], 0, "")
        query = Query(q="common ", sort=sort, limit=10, cursor=first.next)
        third = await search_permitted(engine, query, Asked(lambda topic: False))
        assert (third.hits, third.total, third.next) == ([], 0, "")


LETTERS = "abcdefgh"


def _near(rng: random.Random, word: str) -> str:
    """The word with one or two typos, behind its first letter."""
    letters = list(word)
    for _ in range(rng.randint(1, 2)):
        letters[rng.randrange(1, len(letters))] = rng.choice(LETTERS)
    return "".join(letters)


def _adversary(rng: random.Random) -> tuple[list[Document], list[Query]]:
    """Words that lie close together, hundreds of them in conversations that nobody may read; and what is asked about them."""
    probes = ["".join(rng.choices(LETTERS, k=k)) for k in (5, 6, 9, 10)]
    made: list[Document] = []
    heads: dict[str, int] = {}
    for number in range(1, 401):
        topic = f"{rng.choice(['open', 'closed', 'closed'])}/{rng.randrange(4)}"
        seq = heads[topic] = heads.get(topic, 0) + 1
        text = " ".join(_near(rng, rng.choice(probes)) for _ in range(rng.randint(1, 4)))
        made.append(Document(number, topic, seq, f"u/{rng.randrange(3)}", "d", START + number, text))
    queries = []
    for _ in range(60):
        q = rng.choice(probes) if rng.random() < 0.4 else _near(rng, rng.choice(probes))
        q += rng.choice(["", " ", " " + rng.choice(LETTERS), f' "{_near(rng, probes[0])}"'])
        sort: Literal["relevance", "newest", "oldest"] = rng.choice(["relevance", "newest", "oldest"])
        topic_filter = rng.choice(["", "", "#", "+/1", "closed/#", "open/+"])
        since, until = rng.choice([(0, 0), (0, 0), (START + 50, 0), (0, START + 250)])
        sender = rng.choice(["", "", "u/1", "u/9"])
        queries.append(Query(q, None, topic_filter, sender, since, until, sort, limit=7))
    return made, queries


@pytest.mark.parametrize("seed", seeds(0, 1, more=[2, 3]))
@pytest.mark.parametrize("kind", ["listed", "asked"])
async def test_not_even_cursors_and_typos_differ_from_an_index_without_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, kind: str
) -> None:
    """Against an index that never held the rest: what was deleted would leave its words behind."""
    monkeypatch.setattr(fts5_search, "_LOOKED_AT", 1 + seed)
    monkeypatch.setattr(fts5_scope, "TERMS", 128 if seed % 2 else 2)
    monkeypatch.setattr(permission, "_AT_FIRST", 1 + seed)
    everything, queries = _adversary(random.Random(seed))
    allowed = {f"open/{number}" for number in range(4)}
    found = 0
    with_all, alone = Fts5Engine(tmp_path / "all.db"), Fts5Engine(tmp_path / "alone.db")
    for engine, held in ((with_all, everything), (alone, [d for d in everything if _may_read(d.topic)])):
        await engine.open()
        await engine.index(held, {0: 400})
    for query in queries:
        cursor = ""
        while True:
            if kind == "listed":
                one = await with_all.search(replace(query, cursor=cursor, allowed=allowed))
            else:
                one = await search_permitted(with_all, replace(query, cursor=cursor), Asked())
            other = await alone.search(replace(query, cursor=cursor))
            assert one == other, query
            found += len(one.hits)
            cursor = one.next
            if not cursor:
                break
    assert found > 40
    await with_all.close()
    await alone.close()


async def test_a_conversation_that_appears_meanwhile_is_not_shown_before_it_was_asked_about(engine: Engine) -> None:
    known = {"t/1"}
    await engine.index([Document(1, "t/1", 1, "u/a", "d", START, "common")], {0: 1})
    await engine.index([Document(2, "t/2", 1, "u/a", "d", START, "common")], {0: 2})
    assert (await engine.search(Query(q="common ", allowed=known))).total == 1
    assert (await search_permitted(engine, Query(q="common "), Asked(known.__contains__))).total == 1


TOPICS = 25_000


@pytest.fixture(scope="module")
def crowded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A message in each of `TOPICS`: all have "common", a few "rare"; twenty more of one topic are the oldest."""
    path = tmp_path_factory.mktemp("crowded") / "search.db"
    asyncio.run(_crowd(Fts5Engine(path)))
    return path


async def _crowd(engine: Fts5Engine) -> None:
    await engine.open()
    old = [Document(n, "mine/0", n, "u/a", "d", START + n, "common ancient") for n in range(1, 21)]
    await engine.index(old, {0: 20})
    for first in range(21, TOPICS, 5000):
        batch = [
            Document(n, f"t/{n}", 1, "u/a", "d", START + n, "common rare" if n % 5_000 == 7 else "common")
            for n in range(first, min(first + 5000, TOPICS))
        ]
        await engine.index(batch, {0: batch[-1].id})
    await engine.close()


@pytest.fixture
async def crowded(crowded_file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fts5Engine]:
    """The engine with so many topics, on a machine that may be slow."""
    monkeypatch.setattr(permission, "ASKING_SECONDS", 600.0)
    engine = Fts5Engine(crowded_file, seconds=60.0)
    await engine.open()
    yield engine
    await engine.close()


RARE = {f"t/{n}" for n in range(21, TOPICS) if n % 5_000 == 7}


async def test_a_search_asks_about_what_it_finds(crowded: Fts5Engine) -> None:
    for sort in SORTS:
        for may_read, total in ((lambda topic: True, 4), (lambda topic: topic == "t/10007", 1), (lambda topic: False, 0)):
            asked = Asked(may_read)
            results = await search_permitted(crowded, Query(q="rare", sort=sort), asked)
            assert set(asked.topics) == RARE
            assert (results.total, results.exact) == (total, True)
    asked = Asked(lambda topic: False)
    assert (await search_permitted(crowded, Query(q="common", sender="u/z"), asked)).hits == []
    assert asked.topics == []


async def test_somebody_who_may_read_everything_is_asked_about_one_answer(crowded: Fts5Engine) -> None:
    for sort in SORTS:
        seen: list[int] = []
        query = Query(q="common ", sort=sort, limit=100)
        while True:
            asked = Asked(lambda topic: True)
            results = await search_permitted(crowded, query, asked)
            assert len(asked.topics) < 2 * 1024
            assert (results.total, results.exact) == (1000, False)
            seen += [hit.id for hit in results.hits]
            if not results.next or len(seen) > 1500:
                break
            query = replace(query, cursor=results.next)
        newest = list(range(TOPICS - 1, 0, -1))
        assert seen == {"newest": newest, "oldest": newest[::-1], "relevance": newest}[sort][: len(seen)]
        assert len(seen) >= 1000


async def test_somebody_who_may_read_next_to_nothing_is_told_that_it_was_too_much(crowded: Fts5Engine) -> None:
    for sort, total in (("newest", 0), ("relevance", 0), ("oldest", 20)):
        asked = Asked(lambda topic: topic == "mine/0")
        results = await search_permitted(crowded, Query(q="common ", sort=sort), asked)  # type: ignore[arg-type]
        assert len(asked.topics) == len(set(asked.topics)) == MAX_ASKED
        assert (results.total, results.exact, {hit.topic for hit in results.hits} <= {"mine/0"}) == (total, False, True)
    asked = Asked(lambda topic: topic == "mine/0")
    narrower = await search_permitted(crowded, Query(q="common ", topic_filter="mine/#"), asked)
    assert (narrower.total, narrower.exact) == (20, True)
