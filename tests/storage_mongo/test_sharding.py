"""Sharding the database: what is printed, what is run, and what holds without an index that keeps message ids unique.

No mongos can be installed here. What it would refuse is refused by `tests.support.shard_keys`, in every test of storage; the
commands are run against a server that passes itself off as one, and obeys them by doing nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable

import pytest
from click.testing import CliRunner, Result

from broker.cli.main import main
from storage.cluster import Parcel, Wake
from storage.factory import open_sharding
from storage.mongo import MongoStorage
from storage.mongo.documents import Collections, Raw, row_id, timeline_key
from storage.mongo.sharding import SHARD_KEYS
from storage.records import Append, RowKey
from tests.storage.samples import START, Maker
from tests.storage_mongo.groups import check_laws, prepare
from tests.support import mongo_server
from tests.support.mongo_proxy import Command, MongoProxy
from tests.support.shard_keys import LISTENER, unnamed

ON_ONE_SHARD = {"announced", "late", "tokens", "jobs", "lease", "nodes", "routes", "leases", "divisions", "meta", "settings"}
URL = "mongodb://ann:secret@mongos-1,mongos-2/tideline?authSource=admin&tideline_lease_ms=500"


def shard(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["cluster", "shard", *arguments])


# --- what is printed -----------------------------------------------------------------------------------------------


def test_every_collection_has_a_place() -> None:
    assert SHARD_KEYS.keys() | ON_ONE_SHARD == set(Collections._fields)
    assert not SHARD_KEYS.keys() & ON_ONE_SHARD


def test_what_is_printed_is_what_would_be_run() -> None:
    printed = shard("--url", URL)
    assert printed.exit_code == 0, printed.output
    note, *lines = printed.stdout.splitlines()
    assert note.startswith("// ")
    assert "secret" not in printed.output
    found = []
    for line in lines:
        parts = re.fullmatch(r'db\.getSiblingDB\(("\w+")\)\.runCommand\((\{.*\})\)', line)
        assert parts, line
        found.append((json.loads(parts[1]), json.loads(parts[2])))
    assert found == [tuple(command) for command in open_sharding(URL).commands()]
    assert found[0] == ("admin", {"enableSharding": "tideline"})
    keys = {body["shardCollection"]: body["key"] for _, body in found if "shardCollection" in body}
    assert keys == {f"tideline.{name}": key for name, key in SHARD_KEYS.items()}
    indexed = set()
    for database, body in found:
        if "createIndexes" in body:
            assert database == "tideline"
            (index,) = body["indexes"]
            indexed.add((body["createIndexes"], tuple(index["key"].items())))
        elif "shardCollection" in body and body["key"] != {"_id": 1}:
            assert (body["shardCollection"].partition(".")[2], tuple(body["key"].items())) in indexed


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///data/tideline.db", "the storage url's scheme is 'sqlite': only the database of a mongodb:// url"),
        ("mongodb://h", "names no database"),
        ("tideline", "the storage url has no scheme"),
    ],
)
def test_what_cannot_be_sharded_is_said(url: str, told: str) -> None:
    refused = shard("--url", url)
    assert refused.exit_code == 2
    assert told in refused.stderr


# --- what is run -----------------------------------------------------------------------------------------------------


async def unique_ids(storage: MongoStorage) -> bool | None:
    assert storage._connection is not None
    return await storage._connection.bound.unique_ids()


async def test_a_server_that_is_no_mongos(database: str) -> None:
    refused = await asyncio.to_thread(shard, "--apply", "--url", mongo_server.url(database))
    assert refused.exit_code == 1
    assert "is no mongos" in refused.stderr
    assert "give the url of a mongos" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.skipif(mongo_server.GIVEN != "nx-27017", reason="others refuse what only a mongos can do")
async def test_apply_runs_the_commands_in_their_order_behind_the_indexes(database: str, proxy: MongoProxy) -> None:
    """Also where the database has served a replica set before, whose index of message ids was unique."""
    before = MongoStorage(mongo_server.url(database))
    await before.open()
    assert await unique_ids(before)
    proxy.router, proxy.bodies = True, []
    url = mongo_server.url(database, through=proxy.port)
    run = await asyncio.to_thread(shard, "--apply", "--url", url)
    assert run.exit_code == 0, run.output
    wanted = open_sharding(url).commands()
    assert len(run.stdout.splitlines()) == len(wanted)
    assert f"{database}.store is sharded by {json.dumps(SHARD_KEYS['store'])}" in run.stdout
    admin = ("enableSharding", "shardCollection")
    sent = [body for body in proxy.bodies if any(name in body for name in (*admin, "dropIndexes"))]
    assert sent[0]["dropIndexes"] == "store"
    told = [{name: body[name] for name in body if name in (*admin, "key")} for body in sent[1:]]
    assert told == [command.body for command in wanted if command.database == "admin"]
    assert [body["$db"] for body in sent[1:]] == ["admin"] * len(sent[1:])
    assert await unique_ids(before) is False
    await before.close()


async def test_a_node_serves_through_a_mongos(database: str, proxy: MongoProxy, make: Maker) -> None:
    """It makes no unique index there, and takes one away that there is; a node beside the mongos leaves that as it is."""
    for through in (0, proxy.port):
        proxy.router = True
        storage = MongoStorage(mongo_server.url(database, through=through))
        await storage.open()
        await storage.commit([make.append("a", ["u/ann"])])
        assert await unique_ids(storage) is (not through)
        await storage.close()
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    assert await unique_ids(storage) is False
    assert await check_laws(storage) == 2
    await storage.close()


# --- what the shard keys rest on -------------------------------------------------------------------------------------


async def test_a_shard_key_follows_from_the_id(database: str, make: Maker) -> None:
    """So documents with one ``_id`` are on one shard, and the second one is refused there."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.commit(await prepare(storage, make))
    assert storage.cluster is not None
    me = storage.cluster.me.token
    await storage.cluster.send({me: Parcel([Wake("u/ann", 1, None)])})
    by_hand: dict[str, Callable[[Raw], str]] = {
        "store": lambda d: timeline_key(d["topic"], d["seq"]),
        "sync": lambda d: timeline_key(d["user"], d["seq"]),
        "rows": lambda d: row_id(RowKey(d["table"], d["part"], d["name"])),
        "lanes": lambda d: f"{d['receiver']:016d}" + d["_id"][16:],
    }
    assert by_hand.keys() == {name for name, key in SHARD_KEYS.items() if "_id" not in key}
    for name, key_of in by_hand.items():
        documents = await getattr(storage.collections, name).find().to_list(None)
        assert documents, name
        assert all(key_of(document) == document["_id"] for document in documents)
    await storage.close()


async def test_a_write_without_its_shard_key_would_be_seen(database: str) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.collections.devices.update_one({"user": "u/nobody"}, {"$set": {"offset": 1}})
    await storage.close()
    assert len(LISTENER.refused) == 1
    LISTENER.refused.clear()
    for refused in (
        {"update": "store", "updates": [{"q": {"mid": 1}, "u": {}}]},
        {"update": "members", "updates": [{"q": {"user": "u/ann"}, "u": {}, "upsert": True}]},
        {"delete": "devices", "deletes": [{"q": {"_id": {"$in": ["a"]}}, "limit": 1}]},
        {"insert": "sync", "documents": [{"_id": "a", "seq": 1}]},
    ):
        assert len(unnamed(refused)) == 1
    for passed in (
        {"update": "sync", "updates": [{"q": {"user": {"$eq": "a"}, "seq": 1}, "u": {}}]},
        {"delete": "sync", "deletes": [{"q": {"user": "a"}, "limit": 0}]},
        {"update": "routes", "updates": [{"q": {"seq": 1}, "u": {}}]},
    ):
        assert unnamed(passed) == []


# --- without a unique index of message ids ---------------------------------------------------------------------------


class Held:
    """A commit that is held up before its ``number``-th command of one kind on a collection; ``whole``: it had fewer."""

    def __init__(self, storage: MongoStorage, proxy: MongoProxy, name: str, number: int, append: Append) -> None:
        self._name, self._left, self._at = name, number, False
        self._go, self._there = asyncio.Event(), asyncio.Event()
        proxy.pass_on, proxy.held = self._see, self._hold
        self.commit = asyncio.create_task(storage.commit([append]))

    def _see(self, command: Command) -> bool:
        self._at = command == Command(self._name, "store")
        self._left -= self._at
        return True

    def _hold(self) -> Awaitable[object] | None:
        if self._at and self._left <= 0 and not self._go.is_set():
            self._there.set()
            return self._go.wait()
        return None

    async def reached(self) -> bool:
        """Wait until it is held up; False where it ended before."""
        there = asyncio.create_task(self._there.wait())
        await asyncio.wait([there, self.commit], return_when=asyncio.FIRST_COMPLETED)
        there.cancel()
        return not self.commit.done()

    async def go_on(self) -> None:
        self._go.set()
        await self.commit


@pytest.mark.parametrize("number", range(1, 6))
async def test_a_message_that_lands_between_two_looks_is_not_stored_again(
    database: str, proxy: MongoProxy, make: Maker, number: int
) -> None:
    """Two nodes store the same message under one id: the first one's insert lands before any of the second one's reads."""
    async with asyncio.timeout(60):
        second = MongoProxy(*mongo_server.address())
        await second.start()
        one = MongoStorage(mongo_server.url(database, through=proxy.port))
        other = MongoStorage(mongo_server.url(database, through=second.port))
        for storage in (one, other):
            await storage.open()
        store = one.collections.store
        await store.drop_index("mid_1")
        await store.create_index("mid")
        await one.commit([make.append("a", ["u/bob"])])

        def publish() -> Append:
            return make.append("a", ["u/bob"], b"same", idempotency_key="k", idempotency_until=START + 1_000_000)

        first = Held(one, proxy, "insert", 1, publish())
        assert await first.reached()
        again = Held(other, second, "find", number, publish())
        await again.reached()
        await first.go_on()
        await again.go_on()
        await other.commit([make.append("a", ["u/bob"])])
        assert await check_laws(other) == 3
        for storage in (one, other):
            await storage.close()
        await second.stop()
