"""What is put together byte by byte is what the driver's encoder makes of the documents; what is used where that cannot be."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from typing import Any

import pytest
from bson import Int64, decode_all, encode
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage, commands, fast_encoding, plain_encoding
from storage.mongo.codec import pack_places
from storage.mongo.documents import timeline_key
from storage.mongo.encoding import Encoding, Entry, Numbered
from storage.records import Append, DeviceKey, Message
from tests.storage.samples import Maker, numbered
from tests.storage_mongo.groups import check_laws
from tests.support import mongo_server

VERSION = (7 << 40) + 3
PLENTY = 1 << 30


@pytest.fixture(params=[fast_encoding, plain_encoding], ids=["fast", "plain"])
def encoding(request: pytest.FixtureRequest) -> Encoding:
    module: Encoding = request.param
    return module


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
def test_a_message(encoding: Encoding, seq: int, recipients: tuple[str, ...], payload: bytes) -> None:
    op, places = append(*recipients, payload=payload), [1, 1 << 40, 3][: len(recipients)]
    raw, count = encoding.encode_messages([(op, seq, 1 << 41, op.recipients, places)], VERSION, {}, PLENTY)
    assert (decode_all(raw), count) == ([stored(op, seq, 1 << 41, places)], 1)
    assert encoding.message_size((op, seq, 1 << 41, op.recipients, places), VERSION) == len(raw)


def test_what_few_messages_have(encoding: Encoding) -> None:
    op = everything()
    rows = [["table", "part", "key", 0, 1, b"value"]]
    raw, _ = encoding.encode_messages([(op, 1, 2, op.recipients, [3])], VERSION, {op.message.id: rows, 1: []}, PLENTY)
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
def test_each_of_that_alone(encoding: Encoding, field: str) -> None:
    op = append()
    setattr(op, field, getattr(everything(), field))
    raw, _ = encoding.encode_messages([(op, 1, 2, (), [])], VERSION, {}, PLENTY)
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


def test_entries(encoding: Encoding) -> None:
    raw, count = encoding.encode_entries(ENTRIES, PLENTY)
    assert (decode_all(raw), count) == ([entry(one) for one in ENTRIES], 3)


def test_numbers_have_the_types_that_the_driver_gives_large_ones(encoding: Encoding) -> None:
    """So a document is as long for each sequence."""
    raw, _ = encoding.encode_entries(ENTRIES[:1], PLENTY)
    wide = {name: Int64(value) if name in ("seq", "mid", "time") else value for name, value in entry(ENTRIES[0]).items()}
    assert raw == encode({name: wide[name] for name in ("_id", "user", "seq", "mid", "size", "time")})


def test_both_in_turn(encoding: Encoding) -> None:
    ops = [append("u/bob"), everything()]
    messages: list[Numbered] = [(op, seq, 5, op.recipients, [seq]) for seq, op in enumerate(ops, 1)]
    raw, count = encoding.encode_in_turn(messages, ENTRIES, VERSION, {}, PLENTY)
    plain = decode_all(encoding.encode_messages(messages, VERSION, {}, PLENTY)[0])
    assert decode_all(raw) == [{"insert": 0, "document": one} for one in plain] + [
        {"insert": 1, "document": entry(one)} for one in ENTRIES
    ]
    assert count == 5
    assert encoding.encode_in_turn(messages, ENTRIES, VERSION, {}, len(raw)) == (raw, 5)
    for most in (0, len(raw) - 1):
        assert encoding.encode_in_turn(messages, ENTRIES, VERSION, {}, most) == (b"", 0)


def test_no_more_than_fits_and_one_at_least(encoding: Encoding) -> None:
    op = append("u/bob")
    messages: list[Numbered] = [(op, seq, 5, op.recipients, [seq]) for seq in range(1, 6)]
    one = encoding.message_size(messages[0], VERSION)
    sizes = [len(encoding.encode_entries([entry], 0)[0]) for entry in ENTRIES]
    for most, fit in ((0, 1), (one, 1), (3 * one - 1, 2), (3 * one, 3), (PLENTY, 5)):
        raw, count = encoding.encode_messages(messages, VERSION, {}, most)
        assert [document["seq"] for document in decode_all(raw)] == list(range(1, fit + 1))
        assert count == fit
    for fit, most in enumerate(itertools.accumulate(sizes), 1):
        raw, count = encoding.encode_entries(ENTRIES, most)
        assert (len(decode_all(raw)), count) == (fit, fit)


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["\0", "a\0b", "\U0010ffff", "é" * 300]
)
_BORDERS = (0, 1, 127, 128, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 53, (1 << 63) - 1)
_numbers = st.sampled_from(_BORDERS) | st.integers(0, (1 << 63) - 1)
_short = st.sampled_from(_BORDERS[:5]) | st.integers(0, (1 << 31) - 1)
_seqs = st.integers(1, 16).map(lambda digits: 10**digits - 1) | st.integers(1, 10**16 - 1)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([-(1 << 31) - 1, 1 << 31]) | _names,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=10,
)
_entries = st.tuples(_names, _seqs, _numbers, _short, _numbers, _names, st.binary(max_size=9))


@st.composite
def _messages(draw: st.DrawFn) -> Numbered:
    topic, user, device = draw(st.tuples(_names, _names, _names))
    message = Message(draw(_numbers), topic, user, device, 0, draw(st.integers(0, 2)), draw(st.binary(max_size=300)))
    message.retain, message.expires, message.properties = draw(st.tuples(st.booleans(), _numbers, st.binary(max_size=9)))
    recipients = draw(st.lists(_names, max_size=3))
    op = Append(message, recipients)
    op.retain, op.recalls = draw(st.tuples(st.booleans(), st.lists(_numbers, max_size=2)))
    op.received = draw(st.none() | st.tuples(st.builds(DeviceKey, _names, _names), st.integers(0, 65_535)))
    op.idempotency_key, op.idempotency_until, op.content = draw(st.tuples(_names, _numbers, st.binary(max_size=9)))
    return op, draw(_seqs), draw(_numbers), recipients, [draw(_numbers) for _ in recipients]


@given(st.lists(_messages(), max_size=3), st.lists(_entries, max_size=3), _numbers, st.lists(_values, max_size=2), st.data())
def test_both_make_the_same_of_whatever_there_is(
    messages: list[Numbered], entries: list[Entry], version: int, told: list[Any], data: st.DataObject
) -> None:
    """Also where it is cut: NUL in names, numbers at the borders of their types, anything in rows."""
    rows = {messages[0][0].message.id: told} if messages else {}
    both: tuple[Encoding, Encoding] = (fast_encoding, plain_encoding)
    size = len(plain_encoding.encode_in_turn(messages, entries, version, rows, PLENTY)[0])
    for most in (PLENTY, size, data.draw(st.integers(0, size))):
        fast, plain = (
            [
                (decode_all(raw), len(raw), count)
                for raw, count in (
                    encoding.encode_messages(messages, version, rows, most),
                    encoding.encode_entries(entries, most),
                    encoding.encode_in_turn(messages, entries, version, rows, most),
                )
            ]
            for encoding in both
        )
        assert fast == plain
    for message in messages:
        assert fast_encoding.message_size(message, version) == plain_encoding.message_size(message, version)


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


def _in_another_process(before: str, database: str) -> list[str]:
    """Commits and reads after ``before`` ran; (what is used, then what was read), then each line that was logged."""
    script = f"""
import asyncio, logging, sys, types
{before}
logging.basicConfig(format="logged %(name)s %(message)s", stream=sys.stdout)
from storage.mongo import MongoStorage, encoding
from tests.storage.samples import Maker
from tests.storage_mongo.groups import check_laws
async def main():
    storage = MongoStorage({mongo_server.url(database)!r})
    await storage.open()
    make = Maker()
    for size in (1, 300, 2):
        await storage.commit([make.append("a", ["u/ann", "u/bob"], b"x" * n) for n in range(size)])
    print("used", encoding.encode_messages.__module__, await check_laws(storage))
    await storage.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("used", "logged storage"))]


STUB = """
stub = sys.modules["librt.strings"] = types.ModuleType("librt.strings")
"""
OTHER_BYTES = """
import librt.strings
librt.strings.write_i64_le = librt.strings.write_i64_be
"""


async def test_what_is_there_is_used_and_nothing_is_logged(database: str) -> None:
    assert _in_another_process("", database) == ["used storage.mongo.fast_encoding 303"]


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ('sys.modules["librt"] = sys.modules["librt.strings"] = None', "Error: "),
        (STUB, "Error: "),
        pytest.param(OTHER_BYTES, "other bytes", marks=pytest.mark.inside),  # a compiled core does not ask for it by name
    ],
    ids=["missing", "of another version", "that does something else"],
)
async def test_without_a_librt_as_we_know_it(database: str, before: str, why: str) -> None:
    log, used = _in_another_process(before, database)
    assert log.startswith("logged storage.mongo.encoding librt cannot be used (")
    assert why in log
    assert used == "used storage.mongo.plain_encoding 303"


OTHER_ARGUMENTS = """
from pymongo import message
encoder = message._op_msg
def other(flags, command, dbname, *rest, **named):
    if dbname == "b":
        raise TypeError("other arguments")
    return encoder(flags, command, dbname, *rest, **named)
message._op_msg = other
"""
RENAMED = """
from storage.mongo import commands
commands.Encoded._type_marker = None
"""


@pytest.mark.parametrize("before", [OTHER_ARGUMENTS, RENAMED], ids=["that cannot be asked", "that does not know it"])
async def test_a_driver_that_does_not_take_many_documents_for_one(database: str, before: str) -> None:
    log, used = _in_another_process(before, database)
    assert log.startswith(
        "logged storage.mongo.commands this version of pymongo does not take many encoded documents for one ("
    )
    assert used == "used storage.mongo.fast_encoding 303"


@pytest.mark.inside
async def test_nothing_is_acknowledged_where_a_driver_stores_nothing(
    database: str, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one would that sends an `Encoded` for the empty mapping that it is to whoever does not know it."""
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    monkeypatch.setattr(commands.Encoded, "documents", lambda self: [])
    with pytest.raises(StorageUnavailable):
        await storage.commit([make.append("a", ["u/ann"])])
    await storage.close()
