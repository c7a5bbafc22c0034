"""The suite of search cases, run over every engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import pytest

from plugins.search.engine import BadQuery, Document, Engine, Query
from tests.search.corpus import CASES, START, documents

SORTS: tuple[Literal["relevance", "newest", "oldest"], ...] = ("relevance", "newest", "oldest")


@pytest.fixture
async def filled(engine: Engine) -> Engine:
    """An engine with the corpus."""
    made = documents()
    await engine.index(made[:10], {0: 10})
    await engine.index(made[10:], {0: 29})
    return engine


async def test_every_case_finds_exactly_its_messages(filled: Engine) -> None:
    wrong = []
    for case in CASES:
        results = await filled.search(Query(**case.query))
        found = [hit.id for hit in results.hits]
        answer = found if isinstance(case.answer, list) else set(found)
        if answer != case.answer or results.total != len(case.answer) or results.next:
            wrong.append(f"{case.name} ({case.query}): {found}, total {results.total}, not {case.answer}")
    assert wrong == []


async def test_a_hit_says_where_the_message_is(filled: Engine) -> None:
    results = await filled.search(Query(q="roll back"))
    (hit,) = results.hits
    assert hit == (5, "chat/ops", 2, "u/cat", "phone", START + 5000)


async def test_pages_join_without_gap_or_double(engine: Engine) -> None:
    batch = [Document(n, f"t/{n % 3}", n, "u/a", "d", START + n // 4, f"common word{n}") for n in range(1, 48)]
    await engine.index(batch, {0: 47})
    for sort in ("newest", "oldest", "relevance"):
        whole = [hit.id for hit in (await engine.search(Query(q="common ", sort=sort, limit=100))).hits]
        pages, cursor = [], ""
        while True:
            results = await engine.search(Query(q="common ", sort=sort, limit=10, cursor=cursor))
            assert results.total == 47
            pages += [hit.id for hit in results.hits]
            cursor = results.next
            if not cursor:
                break
        assert pages == whole
        assert sorted(pages) == list(range(1, 48))


async def test_what_arrives_between_two_pages_does_not_shift_them(engine: Engine) -> None:
    await engine.index([Document(n, "t", n, "u/a", "d", START + n, "common") for n in range(1, 21)], {0: 20})
    first = await engine.search(Query(q="common ", sort="newest", limit=10))
    late = 1 << 42  # later than any clock of this test
    await engine.index([Document(n, "t", n, "u/a", "d", late + n, "common") for n in range(21, 31)], {0: 30})
    second = await engine.search(Query(q="common ", sort="newest", limit=10, cursor=first.next))
    assert [hit.id for hit in second.hits] == list(range(10, 0, -1))
    assert second.total == first.total == 20
    assert second.next == ""


async def test_a_total_ends_at_a_thousand(engine: Engine) -> None:
    await engine.index([Document(n, "t", n, "u/a", "d", START + n, f"common a-{n}") for n in range(1, 1001)], {0: 1000})
    for q, sort in itertools.product(("common ", "a-", "a-1 OR", ""), SORTS):
        results = await engine.search(Query(q=q, sort=sort))
        assert (results.total, results.exact) == (0 if "OR" in q else 1000, True)
    await engine.index([Document(n, "t", n, "u/a", "d", START + n, f"common a-{n}") for n in range(1001, 1102)], {0: 1101})
    for q, sort in itertools.product(("common ", "a-", ""), SORTS):
        results = await engine.search(Query(q=q, sort=sort))
        assert (results.total, results.exact) == (1000, False)
        again = await engine.search(Query(q=q, sort=sort, cursor=results.next))
        assert (again.total, again.exact) == (1000, False)
        assert not {hit.id for hit in again.hits} & {hit.id for hit in results.hits}


async def test_the_same_message_again_changes_nothing(filled: Engine) -> None:
    before = await filled.count()
    await filled.index(documents(), {0: 29})
    assert await filled.count() == before == len(documents())
    assert (await filled.search(Query(q="会议"))).total == 2


async def test_position_is_what_was_indexed_last(make_engine: Callable[[], Engine], engine: Engine) -> None:
    assert await engine.positions() == {}
    await engine.index(documents(), {0: (1 << 62) + 1})
    await engine.index([], {0: (1 << 62) + 7})
    assert await engine.positions() == {0: (1 << 62) + 7}
    await engine.close()
    other = make_engine()
    await other.open()
    assert await other.positions() == {0: (1 << 62) + 7}
    assert (await other.search(Query(q="会议"))).total == 2
    assert await other.topics() == sorted({document.topic for document in documents()})
    await other.close()


async def test_large_message_ids_keep_every_digit(engine: Engine) -> None:
    number = (1 << 63) - 5
    await engine.index([Document(number, "t", 1, "u/a", "d", START, "giant")], {0: number})
    assert [hit.id for hit in (await engine.search(Query(q="giant"))).hits] == [number]
    await engine.delete([number - 1])
    assert await engine.count() == 1
    await engine.delete([number])
    assert await engine.count() == 0


async def test_deleted_messages_are_gone(filled: Engine) -> None:
    await filled.delete([3, 6, 999])
    await filled.delete([])
    assert {hit.id for hit in (await filled.search(Query(q="meeting "))).hits} == {1, 24, 26}
    assert {hit.id for hit in (await filled.search(Query(q="会议"))).hits} == {29}


async def test_forgetting_takes_the_old_end_of_one_conversation(filled: Engine) -> None:
    await filled.forget("chat/lab", 3)
    await filled.forget("chat/none", 3)
    await filled.forget("chat/ops", 1)
    assert {hit.id for hit in (await filled.search(Query(q="meeting "))).hits} == {3, 24, 26}
    await filled.forget("chat/lab", 1 << 40)
    assert (await filled.search(Query(conversations=["chat/lab"]))).total == 0
    assert (await filled.search(Query(q="deployment"))).total == 2
    await filled.index([Document(99, "chat/lab", 77, "u/a", "d", START, "a new meeting")], {0: 99})
    assert {hit.id for hit in (await filled.search(Query(q="meeting ", conversations=["chat/lab"]))).hits} == {99}


async def test_topics_come_in_pages(filled: Engine) -> None:
    every = sorted({document.topic for document in documents()})
    assert await filled.topics() == every
    assert await filled.topics(limit=3) == every[:3]
    assert await filled.topics(after=every[2], limit=3) == every[3:6]


async def test_a_rebuild_becomes_the_index_and_keeps_its_position(filled: Engine) -> None:
    rebuild = await filled.rebuild()
    assert await rebuild.positions() == {}
    made = [document for document in documents() if document.id != 6]
    await rebuild.index(made, {0: 28})
    assert (await filled.search(Query(q="会议"))).total == 2, "the live index answers meanwhile"
    await filled.index([Document(400, "chat/new", 1, "u/a", "d", START, "会议")], {0: 400})
    await rebuild.forget("chat/ops", 2)
    await rebuild.delete([26])
    await rebuild.index([Document(400, "chat/new", 1, "u/a", "d", START, "会议")], {0: 400})
    await rebuild.swap()
    assert {hit.id for hit in (await filled.search(Query(q="会议"))).hits} == {29, 400}
    assert {hit.id for hit in (await filled.search(Query(q="deployment"))).hits} == {5}
    assert await filled.positions() == {0: 400}
    assert "chat/new" in await filled.topics()
    await filled.index([Document(401, "chat/new", 2, "u/a", "d", START, "会议")], {0: 401})
    assert (await filled.search(Query(q="会议"))).total == 3


async def test_a_discarded_rebuild_leaves_no_trace(make_engine: Callable[[], Engine], filled: Engine) -> None:
    rebuild = await filled.rebuild()
    await rebuild.index(documents()[:5], {0: 5})
    await rebuild.discard()
    await rebuild.discard()
    again = await filled.rebuild()
    assert await again.positions() == {}
    await again.index(documents()[:2], {0: 2})
    third = await filled.rebuild()
    assert await third.positions() == {}
    await third.discard()
    assert await filled.positions() == {0: 29}
    assert (await filled.search(Query(q="会议"))).total == 2


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (Query(limit=0), "limit 0"),
        (Query(limit=101), "limit 101"),
        (Query(q="x" * 1001), "1001 characters"),
        (Query(sort="best"), "sort 'best'"),  # type: ignore[arg-type]
        (Query(since=-1), "milliseconds"),
        (Query(topic_filter="a/#/b"), "'#' must be the whole last level"),
        (Query(cursor="%%%"), "not one of ours"),
        (Query(cursor="W10"), "not one of ours"),
        (Query(cursor="bnVsbA"), "not one of ours"),
    ],
)
async def test_bad_queries_are_told_so(filled: Engine, query: Query, says: str) -> None:
    with pytest.raises(BadQuery, match=says):
        await filled.search(query)


async def test_a_cursor_belongs_to_its_query(filled: Engine) -> None:
    first = await filled.search(Query(q="meeting ", limit=2))
    assert first.next
    with pytest.raises(BadQuery, match="another query"):
        await filled.search(Query(q="monday ", limit=2, cursor=first.next))


@pytest.mark.parametrize(
    "q", ['"', '""', "-meeting", "NOT meeting", "meeting OR", "body:meeting", "a*b", "(", "NEAR(a b)", "\ud800", "'; --"]
)
async def test_no_query_is_a_command(filled: Engine, q: str) -> None:
    results = await filled.search(Query(q=q))
    assert results.total == len(results.hits)


async def test_many_conversations_filter_like_few(filled: Engine) -> None:
    few = {"chat/lab"}
    many = few | {f"none/{number}" for number in range(3000)}
    for number in range(200):
        await filled.index(
            [Document(100 + number, f"more/{number}", 1, "u/x", "d", START, "meeting elsewhere")], {0: 100 + number}
        )
    crowd = few | {f"more/{number}" for number in range(200)}
    assert {hit.id for hit in (await filled.search(Query(q="meeting ", conversations=few))).hits} == {1, 3, 24}
    assert {hit.id for hit in (await filled.search(Query(q="meeting ", conversations=many))).hits} == {1, 3, 24}
    assert (await filled.search(Query(q="meeting ", conversations=crowd))).total == 203
    assert (await filled.search(Query(q="meeting ", conversations=crowd, sort="oldest", limit=1))).total == 203
