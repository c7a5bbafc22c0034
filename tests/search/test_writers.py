"""Several nodes write one store: their ids interleave, and what one commits late has lower ids than what was indexed before."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from plugins.search.engine import EARLIER, Engine, Query
from plugins.search.fts5 import Fts5Engine
from plugins.search.indexer import Indexer
from plugins.search.meili import MeiliEngine
from storage.memory import MemoryDatabase, MemoryNode
from storage.mongo import MongoStorage
from storage.records import Append, Message
from tests.search.corpus import START
from tests.search.meili_stub import MeiliStub
from tests.support import mongo_server
from tests.support.until import until

SOON = 60.0
Node = MemoryNode | MongoStorage


@pytest.fixture(params=["memory", "mongodb"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[list[Node]]:
    """Two nodes of a database."""
    name = mongo_server.new_database() if request.param == "mongodb" else ""
    database = MemoryDatabase()
    nodes: list[Node] = [MongoStorage(mongo_server.url(name)) if name else MemoryNode(database) for _ in range(2)]
    for node in nodes:
        await node.open()
    yield nodes
    for node in nodes:
        await node.close()
    if name:
        await mongo_server.drop(name)


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Fts5Engine(tmp_path / "search.db")
    await engine.open()
    yield engine
    await engine.close()


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Indexer]]:
    started: list[Indexer] = []

    def start(source: Node, engine: Engine, **options: float) -> Indexer:
        indexer = Indexer(source, engine, gather=0.0, share=1.0, poll=0.02, **options)  # type: ignore[arg-type]
        started.append(indexer)
        indexer.start()
        return indexer

    yield start
    for indexer in started:
        await indexer.stop()


Start = Callable[..., Indexer]


async def _commit(node: Node, moments: Sequence[int]) -> list[int]:
    """One group of a node, with the ids that it would give at these moments; it says that it is complete, as a beat does."""
    assert node.cluster is not None
    ids = [moment << 22 | node.cluster.me.number << 12 for moment in moments]
    sender = f"u/{node.cluster.me.number}"
    await node.commit([Append(Message(id, "chat/a", sender, "d", START + id, 1, b"common")) for id in ids])
    await node.cluster.beat(done=ids[-1], routes=0, sessions=0)
    return ids


async def _ids(engine: Engine) -> set[int]:
    return {hit.id for hit in (await engine.search(Query(q="common", limit=100))).hits}


async def test_what_another_node_commits_late_is_found(nodes: list[Node], index: Engine, start: Start) -> None:
    early, late = nodes
    indexer = start(early, index, batch=3)
    expected: set[int] = set()
    for round in range(3):  # each round of the late one has lower ids than what stands in the index already
        mine = await _commit(early, range(100 * round + 150, 100 * round + 160))
        assert await indexer.wait_indexed(mine[-1], SOON)
        theirs = await _commit(late, range(100 * round + 100, 100 * round + 170, 7))
        assert await indexer.wait_indexed(theirs[-1], SOON)
        expected |= {*mine, *theirs}
        assert await _ids(index) == expected
    await until(lambda: indexer.lag().messages == 0)
    assert indexer.lag().position == max(expected)
    assert (await index.positions()) == indexer.positions


async def test_waiting_for_a_late_one_does_not_end_early(nodes: list[Node], index: Engine, start: Start) -> None:
    early, late = nodes
    indexer = start(early, index)
    (mine,) = await _commit(early, [200])
    assert await indexer.wait_indexed(mine, SOON)
    assert late.cluster is not None
    assert not await indexer.wait_indexed(100 << 22 | late.cluster.me.number << 12, 0.05)


async def test_positions_of_all_writers_outlive_a_restart(nodes: list[Node], index: Engine, start: Start) -> None:
    early, late = nodes
    first = start(early, index)
    mine = await _commit(early, [200, 201])
    assert await first.wait_indexed(mine[-1], SOON)
    await first.stop()
    theirs = await _commit(late, [100, 101])
    again = start(late, index)
    assert await again.wait_indexed(theirs[-1], SOON)
    assert await _ids(index) == {*mine, *theirs}
    assert await index.count() == 4


async def test_a_rebuild_and_a_comparison_have_all_writers(nodes: list[Node], index: Engine, start: Start) -> None:
    early, late = nodes
    indexer = start(early, index, batch=2)
    expected = {*await _commit(early, range(200, 209)), *await _commit(late, range(100, 109))}
    for seen in expected:
        assert await indexer.wait_indexed(seen, SOON)
    fractions: list[float] = []
    assert await indexer.reindex(lambda progress: fractions.append(progress.fraction)) == 18
    assert fractions[-1] == 1.0
    assert await _ids(index) == expected
    theirs = await _commit(late, [150])
    assert await indexer.wait_indexed(theirs[0], SOON)
    assert await index.count() == 19
    await index.delete([min(expected), max(expected)])
    found = await indexer.compare()
    assert (found.messages, found.missing, found.surplus) == (19, 2, 0)


async def test_an_index_of_an_earlier_version_is_read_anew_where_several_write(
    nodes: list[Node], tmp_path: Path, start: Start
) -> None:
    """Its one id may have passed over any of them."""
    early, late = nodes
    expected = {*await _commit(early, [200]), *await _commit(late, [100])}
    engine = await _earlier(tmp_path, max(expected))
    indexer = start(early, engine)
    for seen in expected:
        assert await indexer.wait_indexed(seen, SOON)
    await until(lambda: indexer.lag().messages == 0)
    assert await _ids(engine) == expected
    assert EARLIER not in await engine.positions()
    await indexer.stop()
    await engine.close()


async def test_an_index_of_an_earlier_version_goes_on_where_one_writes(tmp_path: Path, start: Start) -> None:
    node = MemoryNode(MemoryDatabase())
    await node.open()
    old = await _commit(node, range(100, 110))
    engine = await _earlier(tmp_path, old[-1])
    indexer = start(node, engine)
    new = await _commit(node, [200])
    assert await indexer.wait_indexed(new[0], SOON)
    assert await _ids(engine) == set(new), "what it believes to have is not read again"
    await indexer.stop()
    await engine.close()
    await node.close()


async def test_what_this_node_committed_does_not_wait_for_its_beat(index: Engine, start: Start) -> None:
    """The tails of a reader in another process are as old as the last beat."""

    class Behind(MemoryNode):
        async def tails(self) -> dict[int, int]:
            return {0: 0}

    node = Behind(MemoryDatabase())
    await node.open()
    indexer = start(node, index)
    await until(lambda: indexer._feed is not None)
    mine = await _commit(node, [100, 101])
    indexer.notify(2, mine[-1])
    assert await indexer.wait_indexed(mine[-1], SOON)
    assert await indexer.reindex() == 2
    assert await _ids(index) == set(mine)
    await indexer.stop()
    restarted = start(node, index)
    await until(lambda: restarted._feed is not None)
    assert not restarted._asked, "a tail that is a moment old is no store that was replaced"
    await restarted.stop()
    await node.close()


async def _earlier(folder: Path, position: int) -> Fts5Engine:
    """An index as earlier versions left it: without messages, and with one id."""
    path = folder / "earlier.db"
    engine = Fts5Engine(path)
    await engine.open()
    await engine.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE positions")
        db.execute("UPDATE generations SET position = ?", (position,))
    db.close()
    await engine.open()
    assert await engine.positions() == {EARLIER: position}
    return engine


async def test_a_server_has_a_position_for_each_writer(stub: MeiliStub) -> None:
    engine, other = MeiliEngine(stub.url, stub.key), MeiliEngine(stub.url, stub.key)
    await engine.open()
    await other.open()
    await engine.index([], {0: (1 << 62) + 1, 1023: 5})
    assert await engine.positions() == {0: (1 << 62) + 1, 1023: 5}
    assert await other.positions() == {0: (1 << 62) + 1, 1023: 5}, "another node sees how far the writing one is"
    stub.indexes["tideline"].documents["state"]["position"] = "29"
    assert await engine.positions() == {EARLIER: 29}
    await engine.close()
    await other.close()
