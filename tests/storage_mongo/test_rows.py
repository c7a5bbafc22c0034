"""What the store says of a message's rows until they are written."""

from __future__ import annotations

from storage.errors import MessageRefused
from storage.mongo import MongoStorage
from storage.mongo.documents import timeline_key
from storage.records import MAX_ROW, DropRow, PutRow, Row
from tests.storage.samples import Maker
from tests.support import mongo_server


async def test_nothing_of_rows_stays_in_the_store(database: str, make: Maker) -> None:
    """The words of somebody may be in a row of another one's message, as where that recalls a reaction."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.commit([first := make.append("a"), PutRow("t", "p", "secret", b"secret", of=first)])
    await storage.commit([second := make.append("a"), DropRow("t", "p", "secret", of=second)])
    assert [message.id for message in await storage.read_conversation("a")] == [first.message.id, second.message.id]
    assert [document async for document in storage.collections.store.find({}) if "rows" in document] == []
    await storage.close()


async def test_what_an_earlier_version_said_of_rows_is_written_as_it_stands(database: str, make: Maker) -> None:
    """It had put the ids in already: digits that look like one are not touched."""
    storage, other = (MongoStorage(mongo_server.url(database)) for _ in range(2))
    await storage.open()
    await other.open()
    await storage.commit([make.append("a"), one := make.append("a")])
    key = f"of {one.message.id:016x}"
    place = {"_id": timeline_key("a", 2), "topic": "a", "seq": 2}
    await storage.collections.store.update_one(place, {"$set": {"rows": [["t", "p", key, 0, 7, b"said of it"]]}})
    assert other.cluster is not None
    await other.cluster.finish(storage._state.token)
    assert await other.row("t", "p", key) == Row("t", "p", key, b"said of it", 7)
    assert [document async for document in other.collections.store.find({}) if "rows" in document] == []
    await storage.close()
    await other.close()


async def test_a_message_is_refused_that_is_too_large_with_its_rows_alone(database: str, make: Maker) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    large, small, many = make.append("a", payload=bytes(15 << 20)), make.append("b"), make.appends(40)
    rows = [PutRow("t", "p", f"{op.message.id}", bytes(MAX_ROW), of=op) for op in (large, large, small, *many)]
    await storage.commit([large, small, *many, *rows])
    assert isinstance(large.error, MessageRefused)
    assert [op.error for op in (small, *many)] == [None] * (1 + len(many))
    assert [row.error for row in rows] == [None] * len(rows)
    assert [row.revision > 0 for row in rows] == [False, False, *[True] * (1 + len(many))]
    await storage.close()
