"""`tideline verify`: each kind of damage, made by hand in a real file, is reported, and mended by `--repair`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from storage.factory import open_url, open_verifier
from storage.records import DeviceKey, Join, MarkRead
from storage.verify import Finding
from tests.storage.samples import Maker, opened, subscribe
from tests.support import mongo_server
from tests.support.broker import running
from tests.transfer.crashing import killed_everywhere
from tests.transfer.test_backup import run

ANN = DeviceKey("u/ann", "phone")


async def fill(url: str) -> None:
    """Two conversations, of which the first has lost its two oldest messages; two inboxes, a device, a retained message."""
    storage, make = open_url(url), Maker()
    await storage.open()
    await storage.commit([opened(ANN), subscribe(ANN, "#")])
    await storage.commit(make.appends(6, "chat/a", ["u/ann", "c/bob"]))
    await storage.commit(make.appends(3, "news", ["u/ann"]))  # the second conversation: those of one group come in any order
    await storage.commit([make.append("state", retain=True)])
    await storage.commit([Join([("u/ann", "chat/a")]), MarkRead("u/ann", "chat/a", 6)])
    await storage.prune_conversation("chat/a", 3, now=1 << 50)
    await storage.close()


IN_CHAT = "(SELECT id FROM conversations WHERE topic = 'chat/a')"
OF_ANN = "(SELECT id FROM users WHERE key = 'u/ann')"
SQLITE = {
    "conversation-gap": (f"DELETE FROM store WHERE conversation = {IN_CHAT} AND seq = 5", "chat/a: 5 to 5", {"dangling"}),
    "inbox-gap": (f"UPDATE sync SET count = 2, run = '[1,0]' WHERE user = {OF_ANN} AND seq = 6", "u/ann: 1 to 4", set()),
    "run": (f"UPDATE sync SET run = '[0,' WHERE user = {OF_ANN} AND seq = 6", "u/ann: 1 to 6", set()),
    "dangling": (
        f"DELETE FROM store WHERE conversation = {IN_CHAT} AND seq = 6",
        "u/ann 6: message 0000000000000006",
        {"position"},
    ),
    "offset": (
        "UPDATE devices SET position = 99, cursor = 100",
        "u/ann phone: offset 99, cursor 100, the inbox ends at 9",
        set(),
    ),
    "since": ("UPDATE subscriptions SET since = 70", "u/ann phone #: 70, the inbox ends at 9", set()),
    "position": ("UPDATE participants SET position = 8", "u/ann chat/a: 8, the conversation ends at 6", set()),
    "retained": ("UPDATE retained SET seq = 4", "state: 4, the conversation ends at 1", set()),
    "left-over": ("INSERT INTO subscriptions VALUES (77, 'a', 1, 0, 0)", "number 77: 1", set()),
    "nobody": ("INSERT INTO sync (user, seq, message) VALUES (77, 1, 3)", "number 77: 1 entries", set()),
    "removed-messages": (f"UPDATE conversations SET floor = 4 WHERE id = {IN_CHAT}", "chat/a: 2", set()),
    "removed-entries": (f"UPDATE users SET floor = 2 WHERE id = {OF_ANN}", "u/ann: 2", set()),
    "unregistered": ("DELETE FROM conversations WHERE topic = 'news'", "number 2, from sequence 1", set()),
}
"""By kind: what makes the damage, how it is told, and what else it makes."""


def damage(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


async def found(url: str, *, repair: bool = False) -> dict[str, Finding]:
    verifier = open_verifier(url)
    findings = await (verifier.repair(lambda what: None) if repair else verifier.check(lambda what: None))
    return {finding.kind: finding for finding in findings}


async def test_each_kind_of_damage_in_a_file_is_reported_and_mended(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    await fill(f"sqlite:///{whole}")
    assert await found(f"sqlite:///{whole}") == {}
    for kind, (statement, place, others) in SQLITE.items():
        path = tmp_path / f"{kind}.db"
        path.write_bytes(whole.read_bytes())
        damage(path, statement)
        url = f"sqlite:///{path}"
        told = await found(url)
        assert told.keys() == {kind, *others}, kind
        assert place in told[kind].places, told[kind]
        mended = await found(url, repair=True)
        assert {of: finding.places for of, finding in mended.items()} == {of: finding.places for of, finding in told.items()}
        assert await found(url) == {}, kind
        storage = open_url(url)
        await storage.open()  # and it serves again
        append = Maker().append("chat/a", ["u/ann"])
        append.message.id = 1 << 40
        await storage.commit([append])
        assert [e.seq for e in await storage.read_inbox("u/ann", 0, 100)][-1] == append.inbox_seqs[0] == 10, kind
        await storage.close()


async def test_an_index_that_drifted_is_made_again(tmp_path: Path) -> None:
    """A row goes while SQLite does not know of the index."""
    path = tmp_path / "t.db"
    url = f"sqlite:///{path}"
    await fill(url)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        ((row,),) = [connection.execute("SELECT rowid FROM sqlite_master WHERE name = 'store_timeline'").fetchall()]
        was = connection.execute("SELECT * FROM sqlite_master WHERE name = 'store_timeline'").fetchall()
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("DELETE FROM sqlite_master WHERE rowid = ?", row)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM store WHERE id = 9")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", was[0])
    assert (await found(url)).keys() == {"index"}
    assert (await found(url, repair=True)).keys() == {"index", "dangling"}
    assert await found(url) == {}


async def test_damage_to_the_structure_is_left_to_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    await fill(f"sqlite:///{path}")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)
    code, said = await run("verify", "--repair", "--url", f"sqlite:///{path}")
    assert (code, "restore" in said and "backup" in said) == (1, True) or (code == 3 and "damaged" in said), said
    assert path.read_bytes()[:100] == bytes(data[:100])


MONGO = {
    "conversation-gap": ("store", {"topic": "chat/a", "seq": 5}, None, "chat/a: 5 to 5", {"dangling"}),
    "inbox-gap": ("sync", {"user": "u/ann", "seq": 4}, None, "u/ann: 4 to 4", set()),
    "dangling": ("store", {"topic": "news", "seq": 3}, None, "u/ann 9: message 0000000000000009", set()),
    "offset": ("devices", {"client": "phone"}, {"offset": 99}, "u/ann phone: offset 99, cursor 99, the inbox ends at 9", set()),
    "since": ("subscriptions", {"client": "phone"}, {"since": 70}, "u/ann phone #: 70, the inbox ends at 9", set()),
    "position": ("positions", {"user": "u/ann"}, {"seq": 8}, "u/ann chat/a: 8, the conversation ends at 6", set()),
    "retained": ("retained", {"_id": "state"}, {"seq": 4}, "state: 4, the conversation ends at 1", set()),
}


@pytest.fixture
async def mongodb() -> AsyncIterator[str]:
    name = mongo_server.new_database()
    yield mongo_server.url(name)
    await mongo_server.drop(name)


async def test_each_kind_of_damage_in_mongodb_is_reported_and_mended(mongodb: str) -> None:
    await fill(mongodb)
    assert await found(mongodb) == {}
    storage = open_url(mongodb, read_only=True)
    await storage.open()
    collections = storage.collections  # type: ignore[attr-defined]
    for kind, (collection, where, change, place, others) in MONGO.items():
        documents = getattr(collections, collection)
        if change is None:
            await documents.delete_one(where)
        else:
            await documents.update_one(where, {"$set": change})
        told = await found(mongodb)
        assert told.keys() == {kind, *others}, kind
        assert place in told[kind].places, told[kind]
        assert (await found(mongodb, repair=True)).keys() == told.keys(), kind
        assert await found(mongodb) == {}, kind
    await storage.close()


async def test_it_looks_beside_a_broker_and_mends_without_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/data/tideline.db"
    place = ("--data", str(tmp_path / "data"))
    async with running(url) as broker:
        await (await broker.client("publisher")).publish("chat/a", b"1")
        assert await run("verify", *place) == (0, "no damage was found\n")
        code, said = await run("verify", "--repair", *place)
        assert (code, "is served by another broker" in said) == (3, True)
    await asyncio.to_thread(damage, tmp_path / "data" / "tideline.db", "UPDATE conversations SET floor = 1")
    code, said = await run("verify", *place)
    assert (code, "messages below the first kept sequence: 1\n  chat/a: 1\n  --repair: removed" in said) == (1, True), said
    code, said = await run("verify", "--repair", *place)
    assert (code, "mended: removed" in said) == (0, True), said
    assert (await run("verify", "--url", "memory://"))[0] == 3
    assert (await run("verify", "--data", str(tmp_path / "none")))[0] == 3


async def test_a_repair_that_is_killed_has_mended_all_or_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    await fill(f"sqlite:///{folder}/t.db")
    for statement, *_ in (SQLITE["unregistered"], SQLITE["inbox-gap"], SQLITE["removed-messages"]):
        damage(folder / "t.db", statement)
    states = await asyncio.to_thread(
        killed_everywhere, folder, "t.db", "verify", "--repair", "--url", "sqlite:///t.db", calls={"execute", "executemany"}
    )
    damaged, mended = ["chat/a 5-6", "state 1-1"], ["chat/a 5-6", "lost-and-found/2 1-3", "state 1-1"]
    before = states.index(mended)
    assert before > 3
    assert states == [damaged] * before + [mended] * (len(states) - before)
