"""A small group goes to the store and to the inboxes by one command, where the server has one for both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import decode_all
from pymongo import monitoring

from storage.mongo import MongoStorage
from storage.mongo.inboxes import WORTH_PARTING
from tests.storage.samples import Maker
from tests.storage_mongo.groups import check_laws, told
from tests.support import mongo_server
from tests.support.mongo_proxy import MongoProxy


@pytest.fixture
async def storage(database: str, proxy: MongoProxy) -> AsyncIterator[MongoStorage]:
    proxy.bodies = []
    storage = MongoStorage(mongo_server.url(database, through=proxy.port))
    await storage.open()
    yield storage
    await storage.close()


class _InTurn(monitoring.CommandListener):
    """Of the commands for both, which collection each of their writes is for: 0 is the store."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "bulkWrite":
            self.seen.append([op["insert"] for op in decode_all(event.command["ops"][0].raw)])

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing more to see."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing more to see."""


_IN_TURN = _InTurn()
monitoring.register(_IN_TURN)


def _written(proxy: MongoProxy) -> list[dict[str, Any]]:
    """The commands that have written messages and entries since this was asked last."""
    assert proxy.bodies is not None
    bodies, proxy.bodies = proxy.bodies, []
    return [body for body in bodies if "bulkWrite" in body or body.get("insert") in ("store", "sync")]


async def test_store_first_and_both_at_once(storage: MongoStorage, proxy: MongoProxy, make: Maker) -> None:
    await storage.commit([make.append(topic, ["u/ann", "u/bob"]) for topic in "ab"])  # which registers them
    _written(proxy)
    _IN_TURN.seen.clear()
    await storage.commit([make.append(topic, ["u/ann", "u/bob"]) for topic in "aba"])
    (command,) = _written(proxy)
    assert _IN_TURN.seen == [[0] * 3 + [1] * 6]
    database = storage.collections.store.database.name
    assert [one["ns"] for one in command["nsInfo"]] == [f"{database}.store", f"{database}.sync"]
    assert (command["ordered"], command["writeConcern"]) == (True, storage.collections.store.write_concern.document)
    assert await check_laws(storage) == 5


async def test_a_group_that_retains_or_is_large_goes_step_by_step(
    storage: MongoStorage, proxy: MongoProxy, make: Maker
) -> None:
    await storage.commit([make.append("a", ["u/ann"])])
    for group in ([make.append("a", ["u/ann"], retain=True)], make.appends(WORTH_PARTING + 1, "a", ["u/ann"])):
        _written(proxy)
        await storage.commit(group)
        assert {next(iter(command.items())) for command in _written(proxy)} == {("insert", "store"), ("insert", "sync")}
    assert await check_laws(storage) == 1 + 1 + WORTH_PARTING + 1


@pytest.mark.parametrize("topic", ["theirs", "mine"], ids=["in an inbox", "in the store too"])
async def test_places_that_another_node_took(
    database: str, storage: MongoStorage, proxy: MongoProxy, make: Maker, topic: str
) -> None:
    """What was written before the first taken place stays, and what comes behind it is numbered anew, in its order."""
    other = MongoStorage(mongo_server.url(database))
    await other.open()
    await storage.commit([make.append("mine", ["u/ann", "u/bob"])])
    theirs = Maker()
    theirs.id = 1_000_000
    await other.commit([theirs.append(topic, ["u/bob"], device="other")])
    group = [make.append("mine", ["u/ann", "u/bob", "u/new"]) for _ in range(3)]
    await storage.commit(group)
    assert [list(append.inbox_seqs) for append in group] == [[2, 3, 1], [3, 4, 2], [4, 5, 3]]
    assert [append.message.seq for append in group] == ([2, 3, 4] if topic == "theirs" else [3, 4, 5])
    assert await check_laws(other) == 5
    await other.close()


async def test_its_answer_is_lost_while_another_node_goes_on(
    database: str, storage: MongoStorage, proxy: MongoProxy, make: Maker
) -> None:
    other = MongoStorage(mongo_server.url(database))
    await other.open()
    await storage.commit([make.append("a", ["u/ann"])])
    group = [make.append("a", ["u/ann", "u/bob"]) for _ in range(3)]
    proxy.lose_write(1, "store")
    assert not await told(storage, group)
    theirs = Maker()
    theirs.id = 1_000_000
    await other.commit([theirs.append("a", ["u/ann"], device="other")])
    await storage.commit(group)
    assert [list(append.inbox_seqs) for append in group] == [[2, 1], [3, 2], [4, 3]]
    assert await check_laws(other) == 5
    await other.close()


async def test_a_server_that_refuses_the_command_gets_two(storage: MongoStorage, proxy: MongoProxy, make: Maker) -> None:
    """Such as one of MongoDB 8 whose data are still of an earlier version."""
    proxy.unknown = "bulkWrite"
    group = [make.append("a", ["u/ann"])]
    assert not await told(storage, group)
    await storage.commit(group)
    await storage.commit([make.append("a", ["u/ann"])])
    assert await check_laws(storage) == 2
