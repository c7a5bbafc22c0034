"""The indexer: from the store's tail into an engine."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

import plugins.search.fts5_layout as fts5_layout
import plugins.search.indexer as indexer_module
from plugins.search.engine import Document, Engine, Positions, Query, SearchError, SearchUnavailable
from plugins.search.fts5 import Fts5Engine
from plugins.search.indexer import Indexer, Source
from plugins.search.reindex import Progress
from plugins.search.service import Differences
from storage.errors import StorageUnavailable
from storage.interface import TextPage
from storage.memory import MemoryStorage
from storage.records import Message
from storage.sqlite import SqliteStorage
from tests.search.stores import MadeUpStore, Publisher, made_up
from tests.support.until import until

SOON = 60.0


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    storage = MemoryStorage()
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
async def running() -> AsyncIterator[list[Indexer]]:
    """Indexers to stop at the end."""
    started: list[Indexer] = []
    yield started
    for indexer in started:
        await indexer.stop()


@pytest.fixture
def start(running: list[Indexer]) -> Callable[..., Indexer]:
    def start(source: Source, engine: Engine, **options: object) -> Indexer:
        indexer = Indexer(source, engine, **{"gather": 0.0, "share": 1.0, **options})  # type: ignore[arg-type]
        running.append(indexer)
        indexer.start()
        return indexer

    return start


Start = Callable[..., Indexer]


async def _ids(engine: Engine, **query: object) -> set[int]:
    found: set[int] = set()
    page = await engine.search(Query(limit=100, **query))  # type: ignore[arg-type]
    found |= {hit.id for hit in page.hits}
    while page.next:
        page = await engine.search(Query(limit=100, cursor=page.next, **query))  # type: ignore[arg-type]
        found |= {hit.id for hit in page.hits}
    return found


async def _holds(engine: Engine, expected: set[int]) -> bool:
    return await _ids(engine) == expected


async def test_what_is_published_is_found(engine: Engine, storage: MemoryStorage, start: Start) -> None:
    publisher = Publisher(storage)
    await publisher.publish("before the start")
    indexer = start(storage, engine)
    assert await indexer.wait_indexed(publisher.last, SOON)
    await publisher.publish("会议 at noon", b"\xff\xff", '{"text": "from json"}')
    indexer.notify(3)
    assert await indexer.wait_indexed(publisher.last, SOON)
    assert await _ids(engine, q="start ") == {1}
    assert await _ids(engine, q="会议") == {2}
    assert await _ids(engine, q="json ") == {4}
    assert await engine.count() == 3, "a binary message has no text"
    await until(lambda: indexer.lag().messages == 0)
    assert indexer.lag() == (0, 0, 4)


async def test_what_the_broker_keeps_for_itself_is_not_found(engine: Engine, storage: MemoryStorage, start: Start) -> None:
    """The events of clients that webhooks tell of are removed again at once, and nobody may read them. What an index of an
    earlier version has of them, a comparison removes."""
    publisher = Publisher(storage)
    await publisher.publish('{"user": "u/ann", "address": "192.0.2.7"}', topic="$sync/clients", user="b/tideline")
    await publisher.publish("ann was here")
    await engine.index([Document(900, "$sync/clients", 2, "b/tideline", "", 1, "ann 192.0.2.8")], {})
    indexer = start(storage, engine)
    assert await indexer.wait_indexed(publisher.last, SOON)
    assert await _ids(engine, q="ann ") == {2, 900}
    assert (await indexer.compare()).missing == 0
    assert await _ids(engine, q="ann ") == {2}


class ToldStore(SqliteStorage):
    """Keeps what its texts were."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.came: list[bytes] = []

    async def read_texts_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TextPage:
        page = await super().read_texts_of(number, after, through, limit, max_bytes)
        self.came += [message.payload for message in page.messages]
        return page


async def test_what_is_no_text_does_not_leave_the_store(tmp_path: Path, start: Start) -> None:
    storage, engine = ToldStore(tmp_path / "tideline.db"), Fts5Engine(tmp_path / "search.db")
    await storage.open()
    await engine.open()
    publisher = Publisher(storage)
    await publisher.publish(*[b"\xff\xd8"] * 100, "found", *[b"\x00"] * 50)
    indexer = start(storage, engine, batch=5)
    indexer.notify(151)
    assert await indexer.wait_indexed(151, SOON)
    assert storage.came == [b"found"]
    assert await _ids(engine, q="found ") == {101}
    assert await engine.positions() == {0: 151}, "durable, or all of it would be read again after a start"
    await until(lambda: indexer.lag() == (0, 0, 151))
    assert await indexer.reindex() == 151
    assert await _ids(engine, q="found ") == {101}
    await indexer.stop()
    await engine.close()
    await storage.close()


async def test_a_message_that_is_no_text_still_waits(tmp_path: Path, start: Start) -> None:
    """The lag counts what was passed over as gone by, page by page."""
    storage, engine = SqliteStorage(tmp_path / "tideline.db"), Fts5Engine(tmp_path / "search.db")
    await storage.open()
    await engine.open()
    publisher = Publisher(storage)
    await publisher.publish(*[b"\xff\xd8"] * 100)
    behind: list[int] = []
    indexer = Indexer(storage, engine, batch=5, gather=0.0, share=1.0, moved=lambda: behind.append(indexer.lag().messages))
    indexer.notify(100)
    indexer.start()
    await until(lambda: behind and not behind[-1])
    assert behind == sorted(behind, reverse=True)
    assert len(set(behind)) > 3
    await indexer.stop()
    await engine.close()
    await storage.close()


async def test_it_looks_by_itself_where_nobody_wakes_it(engine: Engine, storage: MemoryStorage, start: Start) -> None:
    indexer = start(storage, engine, poll=0.02)
    await until(lambda: indexer._feed is not None)
    await Publisher(storage).publish("unannounced")
    await until(lambda: indexer.lag().position == 1)


async def test_waiting_for_what_never_comes_ends(engine: Engine, storage: MemoryStorage, start: Start) -> None:
    assert not await start(storage, engine).wait_indexed(7, 0.05)


async def test_a_backlog_is_read_in_pages(tmp_path: Path, start: Start) -> None:
    engine = Fts5Engine(tmp_path / "search.db")
    await engine.open()
    sizes: list[int] = []
    store = MadeUpStore(1000)

    class Watched(MadeUpStore):
        async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
            page = await store.read_tail(after_id, limit, max_bytes)
            sizes.append(len(page))
            return page

    indexer = start(Watched(1000), engine, batch=64)
    assert await indexer.wait_indexed(1000, SOON)
    assert max(sizes) == 64
    await indexer.stop()
    await engine.close()


async def test_lag_counts_what_was_announced_and_ends_at_zero(engine: Engine, start: Start) -> None:
    store = MadeUpStore(0)
    indexer = start(store, engine)
    await until(lambda: indexer._feed is not None)
    gate = asyncio.Event()
    read = store.read_tail

    async def slow(*arguments: object) -> list[Message]:
        await gate.wait()
        return await read(*arguments)  # type: ignore[arg-type]

    store.read_tail = slow  # type: ignore[method-assign, assignment]
    store.size = 30
    indexer.notify(10)
    indexer.notify(20)
    assert indexer.lag().messages == 30
    await until(lambda: indexer.lag().milliseconds >= 10)
    gate.set()
    assert await indexer.wait_indexed(30, SOON)
    await until(lambda: indexer.lag().messages == 0)
    assert indexer.lag().milliseconds == 0


async def test_removed_messages_leave_the_index(engine: Engine, storage: MemoryStorage, start: Start) -> None:
    publisher = Publisher(storage)
    await publisher.publish(*[f"common {n}" for n in range(10)])
    await publisher.publish("common elsewhere", topic="chat/b")
    indexer = start(storage, engine)
    assert await indexer.wait_indexed(11, SOON)
    await storage.prune_conversation("chat/a", 8)
    indexer.forget("chat/a", 5)
    indexer.forget("chat/a", 8)
    indexer.forget("chat/a", 3)

    async def forgotten() -> bool:
        return await engine.count() == 4

    await until(forgotten)
    assert await _ids(engine, q="common ") == {8, 9, 10, 11}


async def test_a_page_read_before_a_removal_does_not_bring_it_back(
    engine: Engine, storage: MemoryStorage, start: Start
) -> None:
    publisher = Publisher(storage)
    indexer = start(storage, engine)
    await until(lambda: indexer._feed is not None)
    held, gate = asyncio.Event(), asyncio.Event()
    index = engine.index

    async def slow(batch: Sequence[Document], positions: Positions) -> None:
        held.set()
        await gate.wait()
        await index(batch, positions)

    engine.index = slow  # type: ignore[method-assign]
    await publisher.publish("doomed", "kept")
    indexer.notify(2)
    async with asyncio.timeout(SOON):
        await held.wait()
    await storage.prune_conversation("chat/a", 2)
    indexer.forget("chat/a", 2)
    gate.set()
    await until(lambda: _holds(engine, {2}))


async def test_removals_that_a_crash_missed_are_found_at_the_next_start(engine: Engine, start: Start) -> None:
    first = start(MadeUpStore(200), engine)
    assert await first.wait_indexed(200, SOON)
    await first.stop()
    start(MadeUpStore(200, kept=150), engine)
    expected = {number for number in range(150, 201) if made_up(number).payload != b"\xff\xfe"}
    await until(lambda: _holds(engine, expected))


async def test_more_removals_than_are_remembered_are_found_by_comparing(
    engine: Engine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MadeUpStore(70)
    indexer = start(store, engine)
    assert await indexer.wait_indexed(70, SOON)
    await until(lambda: indexer._reconcile_after is None)
    monkeypatch.setattr(indexer_module, "_PENDING_REMOVALS", 2)
    store.kept = 60
    for topic in range(7):
        indexer.forget(f"t/{topic}", 8)
    expected = {number for number in range(60, 71) if made_up(number).payload != b"\xff\xfe"}
    await until(lambda: _holds(engine, expected))


class _Moody:
    """An engine that fails now and then, before or after the work is done."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine = engine
        self._rng = random.Random(seed)

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def index(self, batch: Sequence[Document], positions: Positions) -> None:
        mood = self._rng.random()
        if mood < 0.2:
            raise SearchUnavailable("away")
        await self._engine.index(batch, positions)
        if mood > 0.8:
            raise SearchUnavailable("the answer was lost")

    async def forget(self, topic: str, before_seq: int) -> None:
        if self._rng.random() < 0.3:
            raise SearchUnavailable("away")
        await self._engine.forget(topic, before_seq)

    async def delete(self, ids: Collection[int]) -> None:
        await self._engine.delete(ids)


async def test_absences_of_store_and_engine_leave_no_hole_and_no_double(
    engine: Engine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer_module, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(indexer_module, "_LONGEST_WAIT", 0.01)
    rng = random.Random(3)

    class MoodyStore(MadeUpStore):
        async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
            if rng.random() < 0.2:
                raise StorageUnavailable("away")
            return await super().read_tail(after_id, limit, max_bytes)

    indexer = start(MoodyStore(400), _Moody(engine, 4), batch=16)
    assert await indexer.wait_indexed(400, SOON)
    expected = {number for number in range(1, 401) if made_up(number).payload != b"\xff\xfe"}
    assert await _ids(engine) == expected
    assert await engine.count() == len(expected)
    assert indexer.errors > 0
    assert await indexer.reindex() == 400
    assert await _ids(engine) == expected


async def test_a_bug_is_loud_and_does_not_end_it(
    engine: Engine, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(indexer_module, "_LONGEST_WAIT", 0.01)
    store = MadeUpStore(5)
    read, broken = store.read_tail, [ZeroDivisionError("a bug")]

    async def buggy(*arguments: object) -> list[Message]:
        if broken:
            raise broken.pop()
        return await read(*arguments)  # type: ignore[arg-type]

    store.read_tail = buggy  # type: ignore[method-assign, assignment]
    assert await start(store, engine).wait_indexed(5, SOON)
    assert "ZeroDivisionError" in caplog.text


async def test_an_engine_that_is_away_at_the_start_is_waited_for(
    make_engine: Callable[[], Engine], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer_module, "_FIRST_WAIT", 0.001)
    engine = make_engine()
    opened, tries = engine.open, [1, 2, 3]

    async def reluctant() -> None:
        if tries:
            tries.pop()
            raise SearchUnavailable("not yet")
        await opened()

    engine.open = reluctant  # type: ignore[method-assign]
    indexer = start(MadeUpStore(5), engine, opened=False)
    assert await indexer.wait_indexed(5, SOON)
    await indexer.stop()
    await engine.close()


async def test_a_reindex_is_equal_to_the_live_index_that_went_on(engine: Engine, start: Start) -> None:
    store = MadeUpStore(300)
    indexer = start(store, engine, batch=32)
    assert await indexer.wait_indexed(300, SOON)
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 2:  # published and removed while it runs
            store.size, store.kept = 340, 120
            indexer.notify(40)
            for number in range(120, 127):
                indexer.forget(made_up(number).topic, made_up(number).seq)

    assert await indexer.reindex(report) >= 220
    assert [progress.fraction for progress in seen] == sorted(progress.fraction for progress in seen)
    assert seen[-1].fraction == 1.0
    assert await indexer.wait_indexed(340, SOON)
    assert await _ids(engine) == {number for number in range(120, 341) if made_up(number).payload != b"\xff\xfe"}
    store.size = 350
    indexer.notify(10)
    assert await indexer.wait_indexed(350, SOON)
    assert await _ids(engine) == {number for number in range(120, 351) if made_up(number).payload != b"\xff\xfe"}


async def test_a_reindex_finds_what_was_never_indexed(engine: Engine, start: Start) -> None:
    await engine.index([], {0: 100})  # an index that believes that it has them
    indexer = start(MadeUpStore(100), engine)
    assert await indexer.wait_indexed(100, SOON)
    assert await engine.count() == 0
    assert await indexer.reindex() == 100
    assert await engine.count() == sum(1 for number in range(1, 101) if made_up(number).payload != b"\xff\xfe")


async def test_a_reindex_that_is_cancelled_leaves_the_index_as_it_was(engine: Engine, start: Start) -> None:
    indexer = start(MadeUpStore(300), engine, batch=10)
    assert await indexer.wait_indexed(300, SOON)
    before = await _ids(engine)
    going = asyncio.Event()
    task = asyncio.ensure_future(indexer.reindex(lambda progress: going.set()))
    async with asyncio.timeout(SOON):
        await going.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: indexer._reindex is None)
    assert await _ids(engine) == before
    assert await indexer.reindex() == 300
    assert await _ids(engine) == before


async def test_a_reindex_that_fails_says_so_and_the_next_one_works(
    engine: Engine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer_module, "_FIRST_WAIT", 0.001)
    indexer = start(MadeUpStore(50), engine)
    assert await indexer.wait_indexed(50, SOON)
    make = engine.rebuild

    async def spoilt() -> object:
        rebuild = await make()

        async def swap() -> None:
            raise SearchError("the disk is wrong")

        rebuild.swap = swap  # type: ignore[method-assign]
        return rebuild

    with monkeypatch.context() as broken:
        broken.setattr(engine, "rebuild", spoilt)
        with pytest.raises(SearchError, match="the disk is wrong"):
            await indexer.reindex()
    assert tuple(await asyncio.gather(indexer.reindex(), indexer.reindex())) == (50, 50)


async def test_another_tokeniser_starts_a_rebuild_by_itself(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr(fts5_layout, "TOKENISER", 999)
        old = Fts5Engine(tmp_path / "search.db")
        await old.open()
        await old.index([], {0: 100})
        await old.close()
    engine = Fts5Engine(tmp_path / "search.db")
    await engine.open()
    indexer = start(MadeUpStore(100), engine)
    await until(lambda: not engine.stale)
    assert await engine.count() > 80
    await indexer.stop()
    await engine.close()


async def test_a_store_that_was_replaced_by_an_older_one_is_indexed_anew(
    make_engine: Callable[[], Engine], engine: Engine, start: Start
) -> None:
    """Without that, what the new store never had would be counted for ever, and new messages with lower ids never be found."""
    first = start(MadeUpStore(200), engine)
    assert await first.wait_indexed(200, SOON)
    await first.stop()
    restored = MadeUpStore(60)
    indexer = start(restored, engine)
    await until(lambda: indexer._feed is not None and not indexer._asked and indexer._reindex is None)
    assert await _ids(engine) == {number for number in range(1, 61) if made_up(number).payload != b"\xff\xfe"}
    restored.size = 90
    indexer.notify(30)
    assert await indexer.wait_indexed(90, SOON)
    assert await _ids(engine) == {number for number in range(1, 91) if made_up(number).payload != b"\xff\xfe"}


async def test_conversations_that_the_store_never_had_leave_the_index(engine: Engine, start: Start) -> None:
    await engine.index([Document(n, "elsewhere", n, "u/a", "d", 5, "common") for n in range(1, 6)], {0: 5})
    indexer = start(MadeUpStore(20), engine)
    assert await indexer.wait_indexed(20, SOON)
    await until(lambda: indexer._reconcile_after is None)
    assert await _ids(engine, q="common ") == set()


async def test_stopping_in_the_middle_loses_nothing(engine: Engine, start: Start) -> None:
    store = MadeUpStore(500)
    for _ in range(6):
        indexer = start(store, engine, batch=20)
        assert await indexer.wait_indexed(20, SOON)
        await indexer.stop()
        await indexer.stop()
    indexer = start(store, engine)
    assert await indexer.wait_indexed(500, SOON)
    assert await _ids(engine) == {number for number in range(1, 501) if made_up(number).payload != b"\xff\xfe"}


class Deaf(MadeUpStore):
    """Hangs, and does not hear its first cancellation, as a database's driver may not."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.asked = asyncio.Event()

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        self.asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()
        return []


async def test_stopping_ends_although_storage_did_not_hear_of_it(engine: Engine, start: Start) -> None:
    store = Deaf(20)
    indexer = start(store, engine)
    await store.asked.wait()
    stopped, _ = await asyncio.wait([asyncio.create_task(indexer.stop())], timeout=20)
    assert stopped


async def test_the_loop_is_never_held(engine: Engine, start: Start) -> None:
    """Between two of its turns it calls few functions, however long the machine takes for them: three for each message of a
    page are not enough to index it."""
    for number in range(1, 3001):
        made_up(number)  # it remembers them, and else it would make them on the loop
    calls = worst = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    indexer = start(MadeUpStore(3000), engine, batch=500)
    done = asyncio.ensure_future(indexer.wait_indexed(3000, SOON))
    sys.setprofile(count)
    try:
        while not done.done():
            calls = 0
            await asyncio.sleep(0)
            worst = max(worst, calls)
    finally:
        sys.setprofile(None)
    assert await done
    assert worst < 3 * 500


async def test_a_comparison_repairs_the_index_in_both_directions(
    engine: Engine, storage: MemoryStorage, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def purge() -> bool:  # it may take out what is left over before it is counted
        return False

    monkeypatch.setattr(engine, "purge", purge)
    publisher = Publisher(storage)
    await publisher.publish(*[f"common {n}" for n in range(1, 8)], b"\xff\xff")
    await publisher.publish("common other", topic="chat/b")
    await publisher.publish(*[f"common {n}" for n in range(10, 13)], topic="chat/c")
    indexer = start(storage, engine, batch=3)
    assert await indexer.wait_indexed(publisher.last, SOON)
    assert await indexer.compare() == Differences(3, 12, 0, 0)
    # Behind the indexer's back: some are lost, some are left over, and retention has not told of its removals.
    await engine.delete([2, 6, 9])
    made = [
        Document(900 + n, topic, seq, "u/x", "d", 1, "common left")
        for n, (topic, seq) in enumerate([("chat/a", 3), ("chat/a", 70), ("chat/zz", 1)])
    ]
    await engine.index(made, {0: publisher.last})
    await storage.prune_conversation("chat/c", 3)
    reports: list[Differences] = []
    assert await indexer.compare(reports.append) == Differences(3, 10, 3, 5)
    assert await _ids(engine, q="common ") == {1, 2, 3, 4, 5, 6, 7, 9, 12}
    assert [found.messages for found in reports] == sorted(found.messages for found in reports)
    assert await indexer.compare() == Differences(3, 10, 0, 0)
    assert await engine.positions() == {0: publisher.last}


async def test_a_comparison_that_nobody_waits_for_ends(engine: Engine, storage: MemoryStorage, start: Start) -> None:
    publisher = Publisher(storage)
    await publisher.publish(*["common"] * 20)
    indexer = start(storage, engine, batch=1)
    assert await indexer.wait_indexed(publisher.last, SOON)
    begun = asyncio.Event()
    task = asyncio.create_task(indexer.compare(lambda found: begun.set()))
    async with asyncio.timeout(SOON):
        await begun.wait()
    task.cancel()
    assert (await indexer.compare()).messages == 20
    assert task.cancelled()


async def test_a_comparison_that_is_called_off_at_its_very_end_costs_nobody_anything(
    engine: Engine, storage: MemoryStorage, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(storage)
    await publisher.publish("common")
    indexer = start(storage, engine)
    assert await indexer.wait_indexed(publisher.last, SOON)
    found: list[Differences] = []
    task = asyncio.create_task(indexer.compare(found.append))
    real = engine.topics

    async def called_off(after: str = "", limit: int = 1000) -> list[str]:
        topics = await real(after, limit)
        if not topics and found and found[-1].conversations:
            task.cancel()
        return topics

    monkeypatch.setattr(engine, "topics", called_off)
    await asyncio.wait([task])
    assert task.cancelled()
    async with asyncio.timeout(SOON):
        assert await indexer.compare() == Differences(1, 1, 0, 0)
    assert indexer.errors == 0
