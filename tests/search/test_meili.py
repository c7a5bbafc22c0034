"""What the Meilisearch adapter does with a server's moods: over the strict stand-in, as a real one does not fail on demand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from urllib.parse import parse_qs

import pytest

import plugins.search.indexer as indexer_module
import plugins.search.meili_server as meili_server
from plugins.search.engine import Document, Query, SearchError, SearchUnavailable, SearchUnusable
from plugins.search.indexer import Indexer
from plugins.search.meili import MeiliEngine
from plugins.search.meili_text import grams, query_text
from plugins.search.plugin import SearchPlugin, make_indexer
from plugins.search.terms import parse
from storage.memory import MemoryStorage
from storage.records import Message
from tests.search.corpus import START, documents
from tests.search.meili_stub import MeiliStub
from tests.search.stores import MadeUpStore, Publisher, made_up
from tests.support.seeds import seeds
from tests.support.until import until


@pytest.fixture
async def engine(stub: MeiliStub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MeiliEngine]:
    monkeypatch.setattr(meili_server, "_FIRST_BACKOFF", 0.02)
    engine = MeiliEngine(stub.url, stub.key)
    await engine.open()
    yield engine
    stub.flowing.set()
    await engine.close()


def _document(number: int, text: str = "common", topic: str = "t") -> Document:
    return Document(number, topic, number, "u/a", "d", START + number, text)


async def _asked_about_a_task(stub: MeiliStub) -> None:
    """Wait until the adapter has asked about a task that is not done."""

    def asked() -> bool:
        waiting = {str(task["uid"]) for task in stub.tasks if task["status"] == "enqueued"}
        about = [parse_qs(request.partition("?")[2]) for request in stub.requests[-5:] if request.startswith("GET /tasks?")]
        return any(waiting & set(asked["uids"][0].split(",")) for asked in about)

    await until(asked)


def test_what_is_sent() -> None:
    assert grams("开会，议 OK") == "开 会 . 议 ok"
    assert query_text(parse("Hello wor")) == "hello wor"
    assert query_text(parse("Hello world ")) == "hello world "
    assert query_text(parse("明天 会议")) == '"明 天" "会 议" '
    assert query_text(parse('"三点，别" x')) == '"三 点" "别" x'
    assert query_text(parse("iphone15 ")) == '"iphone15" '
    assert query_text(parse("-not ")) == '"not" '


async def test_the_settings_are_on_the_server(engine: MeiliEngine, stub: MeiliStub) -> None:
    settings = stub.indexes["tideline"].settings
    assert settings["searchableAttributes"] == ["grams"]
    assert settings["rankingRules"][:5] == ["words", "typo", "sort", "proximity", "exactness"]
    assert settings["localizedAttributes"] == [{"attributePatterns": ["grams"], "locales": ["cmn"]}]
    assert settings["pagination"] == {"maxTotalHits": 1000}


async def test_a_queued_batch_is_not_an_indexed_one(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.flowing.clear()
    writing = asyncio.ensure_future(engine.index([_document(1)], {0: 1}))
    await _asked_about_a_task(stub)
    assert not writing.done()
    assert await engine.positions() == {}
    stub.flowing.set()
    await writing
    assert await engine.positions() == {0: 1}


@pytest.mark.parametrize(
    "ending", [("canceled", None), ("failed", {"type": "system", "code": "no_space_left_on_device", "message": "full"})]
)
async def test_a_task_that_ends_badly_moves_nothing(
    engine: MeiliEngine, stub: MeiliStub, ending: tuple[str, dict[str, str] | None]
) -> None:
    stub.endings.append(("documentAdditionOrUpdate", *ending))
    with pytest.raises(SearchUnavailable, match=ending[0]):
        await engine.index([_document(1)], {0: 1})
    assert await engine.positions() == {}
    assert stub.indexes["tideline"].documents == {}
    await engine.index([_document(1)], {0: 1})
    assert (await engine.search(Query(q="common"))).total == 1


async def test_a_position_that_cannot_be_written_is_not_taken_for_written(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([], {0: 3})
    stub.endings.append(("documentAdditionOrUpdate", "canceled", None))
    with pytest.raises(SearchUnavailable):
        await engine.index([], {0: 9})
    assert await engine.positions() == {0: 3}
    await engine.index([_document(9, topic="new")], {0: 9})
    own = [document for document in stub.indexes["tideline"].documents.values() if document.get("own")]
    assert {document.get("topic") for document in own} == {None, "new"}


async def test_one_bad_message_does_not_keep_out_the_others(
    engine: MeiliEngine, stub: MeiliStub, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Document(4, "t", 1 << 60, "u/a", "d", START, "common")  # a number that Meilisearch would round
    await engine.index([_document(1), _document(2), _document(3), bad, _document(5)], {0: 5})
    assert {hit.id for hit in (await engine.search(Query(q="common"))).hits} == {1, 2, 3, 5}
    assert await engine.positions() == {0: 5}
    assert "message 4 cannot be indexed" in caplog.text


async def test_a_batch_that_is_too_large_is_halved(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.largest_body = 3000
    await engine.index([_document(n, f"common {'x' * 40} {n}") for n in range(1, 41)], {0: 40})
    assert (await engine.search(Query(q="common "))).total == 40


async def test_a_task_outlives_an_absence_of_the_server(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.flowing.clear()
    writing = asyncio.ensure_future(engine.index([_document(1)], {0: 1}))
    await _asked_about_a_task(stub)
    stub.unavailable = True
    seen = len(stub.requests)
    await until(lambda: len(stub.requests) >= seen + 3)
    assert not writing.done()
    stub.unavailable = False
    stub.flowing.set()
    await writing
    adds = [task for task in stub.tasks if task["type"] == "documentAdditionOrUpdate" and task["indexUid"] == "tideline"]
    assert len(adds) == 1, "it was not sent twice"


async def test_a_server_that_lost_its_tasks_gets_the_batch_again(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.flowing.clear()
    writing = asyncio.ensure_future(engine.index([_document(1)], {0: 1}))
    await _asked_about_a_task(stub)
    stub.forget_tasks()
    with pytest.raises(SearchUnavailable, match="lost task"):
        await writing
    stub.flowing.set()
    await engine.index([_document(1)], {0: 1})
    assert await engine.positions() == {0: 1}


async def test_a_server_that_is_away_is_asked_again_later(
    engine: MeiliEngine, stub: MeiliStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.index([_document(1)], {0: 1})
    monkeypatch.setattr(engine._server, "_backoff", 0.2)
    stub.unavailable = True
    with pytest.raises(SearchUnavailable, match="503"):
        await engine.search(Query(q="common"))
    asked = len(stub.requests)
    with pytest.raises(SearchUnavailable, match="answers 503: look into its log"):
        await engine.search(Query(q="common"))
    assert len(stub.requests) == asked, "a server that is away is left alone for a moment"
    with pytest.raises(SearchUnavailable):
        await engine.index([_document(2)], {0: 2})
    stub.unavailable = False

    async def found() -> int:
        with contextlib.suppress(SearchUnavailable):
            return (await engine.search(Query(q="common"))).total
        return 0

    assert await until(found) == 1


async def test_nobody_listens() -> None:
    engine = MeiliEngine("http://127.0.0.1:9", "k")
    for ask in (engine.open(), engine.search(Query(q="x"))):
        with pytest.raises(SearchUnavailable) as caught:
            await ask
        told = "no Meilisearch server answers at http://127.0.0.1:9: start it, or correct `url` of the search plugin"
        assert str(caught.value) == told
    await engine.close()


async def _told_by(answer: bytes, scheme: str = "http") -> str:
    """What the adapter says of a server that gives this answer to everything; empty: it never answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if answer:
            writer.write(answer)
            writer.close()
        else:
            await reader.read()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        engine = MeiliEngine(url, "k", timeout=1)
        with pytest.raises(SearchUnavailable) as caught:
            await engine.open()
        await engine.close()
        return str(caught.value).replace(url, "URL")


async def test_what_is_wrong_is_told_in_words() -> None:
    correct = "correct `url` of the search plugin"
    html = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: 7\r\nConnection: close\r\n\r\n<html/>"
    assert await _told_by(html % b"404 Not Found") == f"what answers at URL (404) is no Meilisearch server: {correct}"
    assert await _told_by(html % b"200 OK") == f"what answers at URL is no Meilisearch server: {correct}"
    assert await _told_by(html % b"502 Bad Gateway") == "Meilisearch at URL answers 502: look into its log"
    assert await _told_by(b"") == f"Meilisearch at URL did not answer within 1 s: look into its log, or {correct}"
    assert (await _told_by(html, "https")).startswith("the certificate of Meilisearch at URL cannot be verified")


async def test_a_wrong_key_is_told_and_no_key_is_ever_shown(stub: MeiliStub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    engine = MeiliEngine(stub.url, "my-wrong-key")
    with pytest.raises(SearchUnusable, match=r"refuses our key \(invalid_api_key\)") as caught:
        await engine.open()
    await engine.close()
    right = MeiliEngine(stub.url, stub.key)
    await right.open()
    stub.unavailable = True
    with pytest.raises(SearchUnavailable) as away:
        await right.search(Query(q="x"))
    await right.close()
    for shown in (caplog.text, str(caught.value), repr(caught.value), str(away.value), repr(right)):
        assert "my-wrong-key" not in shown
        assert stub.key not in shown


async def test_many_threads_keep_their_headers(engine: MeiliEngine) -> None:
    await engine.index(documents(), {0: 29})

    async def write(number: int) -> None:
        await engine.index([_document(number)], {0: number})

    searches = [engine.search(Query(q="会议", sort="newest")) for _ in range(50)]
    answers = await asyncio.gather(*searches, *(write(100 + n) for n in range(20)))
    assert all(answer.total == 2 for answer in answers[:50] if answer is not None)


async def test_an_empty_deletion_is_never_sent(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([_document(1)], {0: 1})
    before = list(stub.requests)
    await engine.delete([])
    assert stub.requests == before
    await engine.forget("t", 1)
    assert not any(request.endswith("/documents/delete") for request in stub.requests)


async def test_long_names_are_filtered_by(engine: MeiliEngine) -> None:
    topic, sender = "t/" + "长" * 20_000, "u/" + "n" * 60_000
    await engine.index([Document(1, topic, 1, sender, "d", START, "common")], {0: 1})
    (hit,) = (await engine.search(Query(q="common", conversations=[topic], sender=sender))).hits
    assert (hit.topic, hit.sender) == (topic, sender)


async def test_a_server_that_lost_everything_is_filled_again(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([_document(1)], {0: 1})
    stub.indexes.clear()
    with pytest.raises(SearchUnavailable, match="index_not_found"):
        await engine.search(Query(q="common"))
    again = MeiliEngine(stub.url, stub.key)
    await again.open()
    assert await again.positions() == {}
    await again.close()


async def test_a_swap_is_one_task_and_an_unknown_outcome_ends_the_rebuild(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([_document(1, "old")], {0: 1})
    rebuild = await engine.rebuild()
    await rebuild.index([_document(1, "new")], {0: 1})
    stub.endings.append(("indexSwap", "canceled", None))
    with pytest.raises(SearchError, match="may not be in use"):
        await rebuild.swap()
    await rebuild.discard()
    assert (await engine.search(Query(q="old "))).total == 1
    rebuild = await engine.rebuild()
    await rebuild.index([_document(1, "new")], {0: 1})
    await rebuild.swap()
    assert len([task for task in stub.tasks if task["type"] == "indexSwap"]) == 2
    assert sorted(stub.indexes) == ["tideline"]
    assert (await engine.search(Query(q="new "))).total == 1


async def test_a_rebuild_whose_old_index_cannot_be_removed_is_in_use(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([_document(1, "old")], {0: 1})
    rebuild = await engine.rebuild()
    await rebuild.index([_document(1, "new")], {0: 1})
    stub.endings.append(("indexDeletion", "canceled", None))
    await rebuild.swap()
    assert (await engine.search(Query(q="new "))).total == 1
    assert sorted(stub.indexes) == ["tideline", "tideline_next"]
    await (await engine.rebuild()).swap()
    assert sorted(stub.indexes) == ["tideline"]


async def test_closing_ends_a_wait(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.flowing.clear()
    writing = asyncio.ensure_future(engine.index([_document(1)], {0: 1}))
    await _asked_about_a_task(stub)
    await engine.close()
    with pytest.raises(SearchUnavailable, match="closed"):
        await writing


def _added(stub: MeiliStub) -> list[dict[str, Any]]:
    return [task for task in stub.tasks if task["type"] == "documentAdditionOrUpdate"]


async def test_messages_conversations_and_position_are_one_task(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([_document(n, topic=f"t/{n}") for n in range(1, 6)], {0: 5})
    assert len(_added(stub)) == 1
    stub.endings.append(("documentAdditionOrUpdate", "canceled", None))
    with pytest.raises(SearchUnavailable):
        await engine.index([_document(6, topic="new")], {0: 6})
    again = MeiliEngine(stub.url, stub.key)
    await again.open()
    assert (await again.positions(), await again.topics()) == ({0: 5}, [f"t/{n}" for n in range(1, 6)])
    await again.index([_document(6, topic="new")], {0: 6})
    assert (await again.positions(), await again.count()) == ({0: 6}, 6)
    await again.close()


async def test_our_own_documents_are_found_by_no_search(engine: MeiliEngine) -> None:
    await engine.index([_document(1), _document(2, topic="own")], {0: 2})
    for query in (Query(), Query(sort="oldest"), Query(q="state"), Query(q="own "), Query(conversations=["own", "t"])):
        results = await engine.search(query)
        assert {hit.id for hit in results.hits} == ({1, 2} if not query.q else set())
        assert results.total == len(results.hits)
    assert await engine.count() == 2
    assert set(await engine.unasked(Query(), frozenset(), 10)) == {"t", "own"}


async def test_no_filter_has_a_text_of_each_message_s_own(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([_document(number) for number in range(1, 101)], {0: 100})
    index = stub.indexes["tideline"]
    assert index.settings["facetSearch"] is False
    for name in index.settings["filterableAttributes"]:
        texts = {document[name] for document in index.documents.values() if isinstance(document.get(name), str)}
        assert len(texts) < 10, f"a real server goes through all of {name} in each task"


async def test_removals_are_few_tasks(engine: MeiliEngine, stub: MeiliStub) -> None:
    await engine.index([_document(number) for number in range(1, 3001)], {0: 3000})
    await engine.delete(range(1, 3000))
    assert [task["type"] for task in stub.tasks].count("documentDeletion") == 1
    assert await engine.count() == 1


async def test_what_waits_is_one_task(stub: MeiliStub) -> None:
    stub.task_seconds = 0.2
    storage = MemoryStorage()
    await storage.open()
    publisher = Publisher(storage)
    for _ in range(40):
        await publisher.publish(*["common text"] * 100)
    engine = MeiliEngine(stub.url, stub.key)
    indexer = make_indexer(storage, engine, SearchPlugin.Config(engine="meilisearch", url=stub.url, gather=0.0))
    indexer.start()
    assert await indexer.wait_indexed(publisher.last, 60)
    assert await engine.count() == 4000
    assert len(_added(stub)) == 1
    await indexer.stop()
    await engine.close()
    await storage.close()


# --- several tasks under way -----------------------------------------------------------------------------------------


async def _doing(*coroutines: Coroutine[Any, Any, None]) -> list[BaseException | None]:
    return await asyncio.gather(*coroutines, return_exceptions=True)


async def test_the_next_batches_are_queued_while_one_is_worked_on(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.flowing.clear()
    writing = asyncio.ensure_future(_doing(*(engine.index([_document(n)], {0: n}) for n in range(1, 6))))
    await until(lambda: len(_added(stub)) == 5)
    assert await engine.positions() == {}
    stub.flowing.set()
    assert await writing == [None] * 5
    assert await engine.positions() == {0: 5}
    assert [hit.id for hit in (await engine.search(Query(q="common", sort="oldest"))).hits] == [1, 2, 3, 4, 5]
    assert any(len(batch) > 1 for batch in stub.batches), "the server does neighbours at once"


async def test_a_batch_that_failed_is_not_passed_by_those_behind_it(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.flowing.clear()
    stub.endings.append(("documentAdditionOrUpdate", "canceled", None))
    writing = asyncio.ensure_future(_doing(*(engine.index([_document(n)], {0: n}) for n in (2, 3, 4))))
    await until(lambda: len(_added(stub)) == 3)
    stub.flowing.set()
    errors = await writing
    assert all(isinstance(error, SearchUnavailable) for error in errors), "the first failed, and the others with it"
    assert {int(id) for id in stub.indexes["tideline"].documents if id.isdigit()} == {3, 4}
    assert await engine.positions() == {}, "the server has what was behind it; the positions don't say so"
    again = MeiliEngine(stub.url, stub.key)
    await again.open()
    assert await again.positions() == {}
    await again.close()
    assert await _doing(*(engine.index([_document(n)], {0: n}) for n in (2, 3, 4))) == [None] * 3
    assert await engine.positions() == {0: 4}


async def test_one_bad_message_among_batches_under_way_is_left_out_alone(engine: MeiliEngine, stub: MeiliStub) -> None:
    bad = Document(2, "t", 1 << 60, "u/a", "d", START, "common")
    stub.flowing.clear()
    batches = [[_document(1)], [bad, _document(3)], [_document(4)], [_document(5)]]
    writing = asyncio.ensure_future(_doing(*(engine.index(batch, {0: batch[-1].id}) for batch in batches)))
    await until(lambda: len(_added(stub)) == 4)
    stub.flowing.set()
    assert await writing == [None] * 4
    assert {hit.id for hit in (await engine.search(Query(q="common"))).hits} == {1, 3, 4, 5}
    assert await engine.positions() == {0: 5}


async def test_a_deletion_is_queued_behind_what_was_sent_before_it(engine: MeiliEngine, stub: MeiliStub) -> None:
    stub.flowing.clear()
    writing = asyncio.ensure_future(_doing(engine.index([_document(1), _document(2)], {0: 2}), engine.delete([1])))
    await until(lambda: any(task["type"] == "documentDeletion" for task in stub.tasks))
    stub.flowing.set()
    assert await writing == [None, None]
    assert {hit.id for hit in (await engine.search(Query(q="common"))).hits} == {2}


class _Pruned(MadeUpStore):
    """A store that loses the old ends of its conversations."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.gone: set[int] = set()

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        return [message for message in await super().read_tail(after_id, limit, max_bytes) if message.id not in self.gone]


@pytest.mark.parametrize("seed", seeds(1, 2, more=range(3, 40)))
async def test_what_fails_under_way_comes_again_and_what_was_removed_does_not(
    stub: MeiliStub, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(indexer_module, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(indexer_module, "_LONGEST_WAIT", 0.01)
    rng = random.Random(seed)
    for _ in range(12):
        ending = rng.choice([("canceled", None), ("failed", {"type": "system", "code": "internal", "message": "full"})])
        stub.endings.append(("documentAdditionOrUpdate", *ending))
    stub.succeeding = 3  # of four
    engine = MeiliEngine(stub.url, stub.key)
    await engine.open()
    store = _Pruned(400)
    indexer = Indexer(store, engine, batch=rng.choice([3, 10]), gather=0, share=1)
    indexer.start()
    for removed in range(1, 60, 7):
        await until(lambda removed=removed: indexer.positions.get(0, 0) >= 3 * removed)  # type: ignore[misc]
        message = made_up(removed)
        store.gone |= {number for number in range(1, removed + 1) if made_up(number).topic == message.topic}
        indexer.forget(message.topic, message.seq + 1)
    assert await indexer.wait_indexed(400, 60)
    await until(lambda: not indexer._removals)
    expected = {number for number in range(1, 401) if made_up(number).payload != b"\xff\xfe"} - store.gone
    assert {int(id) for id in stub.indexes["tideline"].documents if id.isdigit()} == expected
    assert not stub.endings
    assert await engine.positions() == {0: 400}
    await indexer.stop()
    await engine.close()
