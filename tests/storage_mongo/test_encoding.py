"""What is put together byte by byte is what the driver's encoder makes of the documents."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
from bson import Int64, decode_all, encode

from storage.mongo import MongoStorage
from storage.mongo.codec import pack_places
from storage.mongo.documents import timeline_key
from storage.mongo.encoding import Entry, Numbered, encode_entries, encode_in_turn, encode_messages, message_size
from storage.records import Append, DeviceKey, Message
from tests.storage.samples import Maker, numbered
from tests.storage_mongo.groups import check_laws
from tests.support import mongo_server

VERSION = (7 << 40) + 3
PLENTY = 1 << 30


def append(*recipients: str, topic: str = "straße/€", payload: bytes = b"payload\0", **fields: Any) -> Append:
    return Append(Message(numbered(5, 9), topic, "u/ännchen", "télé", 1_700_000_000_000, 2, payload, **fields), recipients)


def everything() -> Append:
    op = append("u/bob", retain=True, expires=1 << 41, properties=b"\x26\0\1a\0\1b")
    op.retain = True
    op.received = DeviceKey("u/ännchen", "télé"), 65_535
    op.idempotency_key, op.idempotency_until, op.content = "key", 1 << 42, b"digest"
    op.recalls = [1, 1 << 50]
    return op


def stored(op: Append, seq: int, time: int, places: list[int]) -> dict[str, Any]:
    m = op.message
    names = {"topic": m.topic, "user": m.user, "device": m.device}
    numbers = {"seq": seq, "mid": m.id, "time": time, "qos": m.qos, "v": VERSION, "writer": 9}
    document = {"_id": timeline_key(m.topic, seq), "payload": m.payload, **names, **numbers}
    return document | ({"recipients": list(op.recipients), "places": pack_places(places)} if places else {})


@pytest.mark.parametrize("seq", [1, 10**9, 10**16 - 1])
@pytest.mark.parametrize("recipients", [(), ("u/bob",), ("u/bob", "", "u/zoë")], ids=len)
@pytest.mark.parametrize("payload", [b"", b"\0" * 300])
def test_a_message(seq: int, recipients: tuple[str, ...], payload: bytes) -> None:
    op, places = append(*recipients, payload=payload), [1, 1 << 40, 3][: len(recipients)]
    raw, count = encode_messages([(op, seq, 1 << 41, op.recipients, places)], VERSION, {}, PLENTY)
    assert (decode_all(raw), count) == ([stored(op, seq, 1 << 41, places)], 1)
    assert message_size((op, seq, 1 << 41, op.recipients, places), VERSION) == len(raw)


def test_what_few_messages_have() -> None:
    op = everything()
    rows = [["table", "part", "key", 0, 1, b"value"]]
    raw, _ = encode_messages([(op, 1, 2, op.recipients, [3])], VERSION, {op.message.id: rows, 1: []}, PLENTY)
    assert decode_all(raw) == [
        {
            **stored(op, 1, 2, [3]),
            "retain": True,
            "expires": 1 << 41,
            "properties": b"\x26\0\1a\0\1b",
            "keep": True,
            "received": ["u/ännchen", "télé", 65_535],
            "once": "u/ännchen\0key",
            "once_until": 1 << 42,
            "once_content": b"digest",
            "recalls": [1, 1 << 50],
            "rows": rows,
        }
    ]


@pytest.mark.parametrize("field", ["retain", "received", "idempotency_key", "recalls"])
def test_each_of_that_alone(field: str) -> None:
    op = append()
    setattr(op, field, getattr(everything(), field))
    raw, _ = encode_messages([(op, 1, 2, (), [])], VERSION, {}, PLENTY)
    name = {"retain": "keep", "idempotency_key": "once"}.get(field, field)
    assert name in decode_all(raw)[0]


ENTRIES: list[Entry] = [
    ("u/zoë", 1, numbered(5, 9), 0, 1 << 41, "", b""),
    ("", 10**16 - 1, 1, (1 << 28) - 1, 2, "téléphone", b""),
    ("u/bob", 2, 1 << 62, 7, 3, "", b"\0\1"),
]


def entry(fields: Entry) -> dict[str, Any]:
    user, seq, mid, size, time, target, turns = fields
    rest = {name: value for name, value in (("target", target), ("turns", turns)) if value}
    return {"_id": timeline_key(user, seq), "user": user, "seq": seq, "mid": mid, "size": size, "time": time, **rest}


def test_entries() -> None:
    raw, count = encode_entries(ENTRIES, PLENTY)
    assert (decode_all(raw), count) == ([entry(one) for one in ENTRIES], 3)


def test_numbers_have_the_types_that_the_driver_gives_large_ones() -> None:
    """So a document is as long for each sequence."""
    raw, _ = encode_entries(ENTRIES[:1], PLENTY)
    wide = {name: Int64(value) if name in ("seq", "mid", "time") else value for name, value in entry(ENTRIES[0]).items()}
    assert raw == encode({name: wide[name] for name in ("_id", "user", "seq", "mid", "size", "time")})


def test_both_in_turn() -> None:
    ops = [append("u/bob"), everything()]
    messages: list[Numbered] = [(op, seq, 5, op.recipients, [seq]) for seq, op in enumerate(ops, 1)]
    raw, count = encode_in_turn(messages, ENTRIES, VERSION, {}, PLENTY)
    plain = decode_all(encode_messages(messages, VERSION, {}, PLENTY)[0])
    assert decode_all(raw) == [{"insert": 0, "document": one} for one in plain] + [
        {"insert": 1, "document": entry(one)} for one in ENTRIES
    ]
    assert count == 5
    assert encode_in_turn(messages, ENTRIES, VERSION, {}, len(raw)) == (raw, 5)
    for most in (0, len(raw) - 1):
        assert encode_in_turn(messages, ENTRIES, VERSION, {}, most) == (b"", 0)


def test_no_more_than_fits_and_one_at_least() -> None:
    op = append("u/bob")
    messages: list[Numbered] = [(op, seq, 5, op.recipients, [seq]) for seq in range(1, 6)]
    one = message_size(messages[0], VERSION)
    sizes = [len(encode_entries([entry], 0)[0]) for entry in ENTRIES]
    for most, fit in ((0, 1), (one, 1), (3 * one - 1, 2), (3 * one, 3), (PLENTY, 5)):
        raw, count = encode_messages(messages, VERSION, {}, most)
        assert [document["seq"] for document in decode_all(raw)] == list(range(1, fit + 1))
        assert count == fit
    for fit, most in enumerate(itertools.accumulate(sizes), 1):
        raw, count = encode_entries(ENTRIES, most)
        assert (len(decode_all(raw)), count) == (fit, fit)


async def test_a_group_whose_names_are_longer_than_a_command_may_be(database: str, make: Maker) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    user = "u/" + "x" * 60_000
    await storage.commit([make.append("t" * 60_000, [user]) for _ in range(150)])
    await storage.commit([make.append("a", [user, "u/ann"]) for _ in range(150)])
    assert await check_laws(storage) == 300
    await storage.close()


async def test_the_drivers_log_has_no_payload(database: str, make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    await storage.commit([make.append("a", ["u/ann"])])
    with caplog.at_level(logging.DEBUG, "pymongo.command"):
        await storage.commit([make.append("a", ["u/ann"], b"nobody's business")])
    assert "bulkWrite" in caplog.text or "insert" in caplog.text
    assert "business" not in caplog.text
    await storage.close()
