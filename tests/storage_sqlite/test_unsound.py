"""A row of an inbox that does not say what its entries are: what is told of it, to whom, and what is made of it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StorageUnusable
from storage.factory import open_source, open_target
from storage.records import Append, DeviceKey
from storage.sqlite.backend import SqliteStorage
from storage.sqlite.runs import LONGEST, run_of
from storage.sqlite.schema import MIGRATIONS
from storage.sqlite.unsound import made_sound, unsound
from tests.storage.samples import Maker, opened, subscribe
from tests.support.broker import running
from tests.support.until import until
from tests.transfer.test_backup import run
from tests.transfer.test_verify import found

ANN, BOB = DeviceKey("u/ann", "phone"), DeviceKey("u/bob", "phone")
GROUPS = (3, 5, 4)
"""Entries of each group: the second one's row, of 4 to 8, is damaged. Bob has the same; between two of Ann's is one of his."""
DAMAGED = {
    "no JSON": ("run = '[8,6,4,2'", [0, 0, 0, 0, 15]),
    "no end": ("run = '[8,6,4,2,0'", [7, 9, 11, 13, 15]),
    "text in it": ("run = '[8,x,4,2,0]'", [7, 0, 11, 13, 15]),
    "a string": ("run = '[8,\"6\",4,2,0]'", [7, 0, 11, 13, 15]),
    "nothing": ("run = '[8,null,4,2,0]'", [7, 0, 11, 13, 15]),
    "true": ("run = '[8,6,4,2,false]'", [7, 9, 11, 13, 15]),
    "no integer": ("run = '[8,6.5,4,2,0]'", [7, 0, 11, 13, 15]),
    "a number that no integer holds": ("run = '[8,99999999999999999999,4,2,0]'", [7, 0, 11, 13, 15]),
    "an array": ("run = '[8,6,4,[2],0]'", [7, 9, 11, 0, 15]),
    "an object": ("""run = '{"a":8,"b":6,"c":4,"d":2,"e":0}'""", [0, 0, 0, 0, 15]),
    "no text": ("run = CAST(x'5b382c362c342cff2c305d' AS TEXT)", [7, 9, 11, 0, 15]),
    "a blob": ("run = CAST(run AS BLOB)", [0, 0, 0, 0, 15]),
    "numbers that rise": ("run = '[2,6,4,2,0]'", [0, 9, 11, 13, 15]),
    "a number twice": ("run = '[8,6,6,2,0]'", [7, 0, 9, 13, 15]),
    "below 0": ("run = '[8,6,-4,2,0]'", [7, 9, 0, 13, 15]),
    "far below 0": ("run = '[8,-9223372036854775808,4,2,0]'", [7, 0, 11, 13, 15]),
    "before any message": ("run = '[16,6,4,2,0]'", [0, 9, 11, 13, 15]),
    "another last": ("run = '[8,6,4,2,1]'", [7, 9, 11, 13, 15]),
    "too few": ("run = '[8,4,2,0]'", [0, 0, 0, 0, 15]),
    "too many": ("run = '[9,8,6,4,2,0]'", [0, 0, 0, 0, 15]),
    "none": ("run = '[]'", [0, 0, 0, 0, 15]),
    "gone": ("run = NULL", [0, 0, 0, 0, 15]),
    "a count that is too small": ("count = 4", [7, 9, 11, 13, 15]),
    "a count that is too large": ("count = 6", [7, 9, 11, 13, 15]),
    "a count of none": ("count = 0", [7, 9, 11, 13, 15]),
    "a count of too many": (f"count = {LONGEST + 1}", [7, 9, 11, 13, 15]),
    "a count that is none": ("count = 'x'", [7, 9, 11, 13, 15]),
    "over the row before": ("count = 7, run = '[12,11,8,6,4,2,0]'", [7, 9, 11, 13, 15]),
    "for one device": ("target = 'phone'", [7, 9, 11, 13, 15]),
}
"""What is changed of the row, and the message ids that can be told of its entries then."""


def damage(path: Path, change: str, seq: int = 8) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"UPDATE sync SET {change} WHERE seq = ? AND user = (SELECT id FROM users WHERE key = 'u/ann')", (seq,)
        )


async def filled(path: Path) -> SqliteStorage:
    storage, make = SqliteStorage(path), Maker()
    await storage.open()
    await storage.commit([opened(ANN), opened(BOB)])
    make.id = 0
    for count in GROUPS:
        group: list[Append] = []
        for _ in range(count):
            group += [make.append("chat/a", [ANN.user, BOB.user]), make.append("chat/b", [BOB.user])]
        await storage.commit(group)
    return storage


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    storage = await filled(tmp_path / "t.db")
    yield storage
    await storage.close()


async def ids(storage: SqliteStorage, user: str, after: int = 0, limit: int = 100) -> list[tuple[int, int]]:
    entries = await storage.read_inbox(user, after, limit)
    return [(entry.seq, 0 if entry.message is None else entry.message.id) for entry in entries]


SENT = [(seq, 2 * seq - 1) for seq in range(1, sum(GROUPS) + 1)]


@pytest.mark.parametrize("kind", DAMAGED)
async def test_it_is_noticed_and_what_can_be_told_of_it_is_kept(tmp_path: Path, kind: str) -> None:
    change, told = DAMAGED[kind]
    path, url = tmp_path / "t.db", f"sqlite:///{tmp_path}/t.db"
    storage = await filled(path)
    await storage.close()
    assert await found(url) == {}
    damage(path, change)
    noticed = await found(url)
    assert {of: finding.places for of, finding in noticed.items()} == {"run": ["u/ann: 4 to 8"]}
    assert await found(url, repair=True) == noticed
    assert await found(url) == {}
    storage = SqliteStorage(path)
    await storage.open()
    assert await ids(storage, ANN.user) == [*SENT[:3], *zip(range(4, 9), told, strict=True), *SENT[8:]]
    assert len(await ids(storage, BOB.user)) == 2 * len(SENT)
    assert await storage.check(full=True) == []
    await storage.close()


@pytest.mark.parametrize(
    "kind",
    [
        "no JSON",
        "text in it",
        "too few",
        "too many",
        "a count that is too small",
        "a count that is too large",
        "a count of none",
        "gone",
    ],
)
async def test_nothing_past_it_is_handed_out_and_all_before_it_is(storage: SqliteStorage, tmp_path: Path, kind: str) -> None:
    damage(tmp_path / "t.db", DAMAGED[kind][0])
    said = r"inbox of 'u/ann' .* from entry 4 on: .* up to 8 .* tideline verify --repair"
    assert await ids(storage, ANN.user) == SENT[:3]
    assert await ids(storage, ANN.user, 1, 1) == SENT[1:2]
    for after in range(3, 7):  # the last entry can be told by itself
        with pytest.raises(StorageUnusable, match=said):
            await storage.read_inbox(ANN.user, after, 10)
    assert await ids(storage, ANN.user, 8) == SENT[8:]
    assert len(await ids(storage, BOB.user)) == 2 * len(SENT)
    for after in range(7):  # a page that ends before it would say that nobody waits for what is behind
        with pytest.raises(StorageUnusable, match=said):
            await storage.read_pointers(ANN.user, after, 100)
    assert [pointer.seq for pointer in await storage.read_pointers(ANN.user, 8)] == [9, 10, 11, 12]


@pytest.mark.parametrize("change", ["count = 5", "count = 3", "run = '[4,2,0]'", "run = '[8,6,4,2,0]'"])
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_the_last_row_of_an_inbox_is_missed_too(storage: SqliteStorage, tmp_path: Path, change: str, limit: int) -> None:
    damage(tmp_path / "t.db", change, 12)
    for after in range(8, 12):
        with pytest.raises(StorageUnusable, match="from entry 9 on"):
            await storage.read_inbox(ANN.user, after, limit)
        with pytest.raises(StorageUnusable, match="from entry 9 on"):
            await storage.read_pointers(ANN.user, after, limit)
    assert await ids(storage, ANN.user, 7, limit) == SENT[7:8]


async def test_whoever_commits_passes_over_it(storage: SqliteStorage, tmp_path: Path) -> None:
    """A device that begins in the past, who asks where a message is, and retention: one damaged inbox ends none of it."""
    damage(tmp_path / "t.db", DAMAGED["no JSON"][0])
    messages = await storage.read_conversation("chat/a")
    for place, message in enumerate(messages):
        device = opened(DeviceKey(ANN.user, f"tablet {place}"), start=f"since:{message.time}")
        await storage.commit([device])
        assert device.offset <= place  # it is given no less than it asked for
        seq = 0 if 3 <= place < 7 else place + 1
        assert await storage.entries_of(message, [ANN.user, BOB.user]) == [seq, 2 * place + 1]
    assert await storage.prune_inbox(ANN.user, 6) == 5
    assert await storage.inbox_bounds(ANN.user) == (6, 12)
    await storage.close()
    url = f"sqlite:///{tmp_path}/t.db"
    assert (await found(url))["run"].places == ["u/ann: 6 to 8"]
    await found(url, repair=True)
    await storage.open()
    assert await ids(storage, ANN.user) == [(6, 0), (7, 0), *SENT[7:]]


async def test_a_device_waits_before_it_until_it_is_mended_and_others_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost that can be told, and what is behind is not acknowledged past it. New messages are stored as ever."""
    url = f"sqlite:///{tmp_path}/t.db"
    storage = SqliteStorage(tmp_path / "t.db")
    await storage.open()
    make = Maker()
    keys = [DeviceKey("c/ann", "ann"), DeviceKey("c/bob", "bob")]
    for key in keys:
        await storage.commit([opened(key), subscribe(key, "#")])
    for count in GROUPS:
        await storage.commit(make.appends(count, "chat", [key.user for key in keys]))
    await storage.close()
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection, connection:
        connection.execute("UPDATE sync SET run = '[4,3,x,1,0' WHERE user = 1 AND seq = 8")
    payloads = [b"payload %d" % n for n in range(1, 13)]
    async with running(url, errors=True) as broker:
        ann, bob = await broker.durable("ann"), await broker.durable("bob")
        assert [m.payload for m in await ann.messages(3)] == payloads[:3]
        await (await broker.client("writer")).publish("chat", b"new", qos=1)
        assert [m.payload for m in await bob.messages(13)] == [*payloads, b"new"]
        said = "cannot read for ann: the inbox of 'c/ann' cannot be read from entry 4 on"
        await until(lambda: any(said in record.message for record in caplog.records if record.levelname == "ERROR"))
        await ann.quiet()
    await found(url, repair=True)
    async with running(url) as broker:
        ann = await broker.durable("ann")
        assert [m.payload for m in await ann.messages(9)] == [*payloads[3:5], *payloads[6:], b"new"]
        await ann.quiet()


@pytest.mark.parametrize("kind", DAMAGED)
async def test_an_export_has_all_that_can_be_told_and_says_what_cannot(tmp_path: Path, kind: str) -> None:
    change, told = DAMAGED[kind]
    storage = await filled(tmp_path / "t.db")
    await storage.close()
    damage(tmp_path / "t.db", change)
    code, said = await run("export", "--url", f"sqlite:///{tmp_path}/t.db", tmp_path / "e")
    known = sum(id > 0 for id in told)
    assert (code, f"inbox 'u/ann', entries 4 to 8: {known} of 5 can be told\n" in said) == (1, True), said
    assert (await run("import", "--url", f"sqlite:///{tmp_path}/b.db", tmp_path / "e"))[0] == 0
    copy = SqliteStorage(tmp_path / "b.db")
    await copy.open()
    assert await ids(copy, ANN.user) == [*SENT[:3], *zip(range(4, 9), told, strict=True), *SENT[8:]]
    assert len(await ids(copy, BOB.user)) == 2 * len(SENT)
    await copy.close()
    assert await found(f"sqlite:///{tmp_path}/b.db") == {}


async def test_an_import_makes_no_run_of_ids_that_do_not_rise(tmp_path: Path) -> None:
    """As those of several nodes need not."""
    url = f"sqlite:///{tmp_path}/b.db"
    ids = [1, 2, 3, 0, 0, 7, 6, 8, 9]
    async with open_target(url) as target:
        await target.write([("inbox", "u/ann", 0)])
        await target.write([("entry", "u/ann", seq, id, "", 0, 0) for seq, id in enumerate(ids, 1)])
        await target.finish()
    with closing(sqlite3.connect(tmp_path / "b.db")) as connection:
        counts = [count for (count,) in connection.execute("SELECT count FROM sync ORDER BY seq")]
        assert counts == [3, 1, 2, 3]
        assert [message for (message,) in connection.execute("SELECT message FROM entries ORDER BY last")] == ids
    assert "run" not in await found(url)
    async with open_source(url) as source:
        records = [record for page in [page async for page in source.records()] for record in page]
    assert [record[3] for record in records if record[0] == "entry"] == ids


async def test_a_message_that_never_was_is_missed_also_where_retention_has_emptied_a_conversation(tmp_path: Path) -> None:
    storage = await filled(tmp_path / "t.db")
    await storage.prune_conversation("chat/b", 100, now=1 << 50)
    await storage.close()
    damage(tmp_path / "t.db", "message = message + 1000")
    assert (await found(f"sqlite:///{tmp_path}/t.db")).keys() == {"run", "dangling"} - {"run"}


def _file(ids: list[int]) -> sqlite3.Connection:
    """An inbox whose entries 3 and on are one row, behind a row of two."""
    connection = sqlite3.connect(":memory:")
    connection.executescript("".join(MIGRATIONS))
    connection.execute("INSERT INTO users VALUES (1, 'u/ann', 0)")
    for id in [1, 2, *ids]:
        connection.execute("INSERT INTO store VALUES (?, 1, ?, '', '', 0, 0, 0, 0, x'', x'')", (id, id))
    connection.execute("INSERT INTO sync (user, seq, message, count, run) VALUES (1, 2, 2, 2, '[1,0]')")
    row = (len(ids) + 2, ids[-1], len(ids), run_of(ids) if len(ids) > 1 else None)
    connection.execute("INSERT INTO sync (user, seq, message, count, run) VALUES (1, ?, ?, ?, ?)", row)
    return connection


@given(st.sets(st.integers(3, 1 << 62), min_size=2, max_size=LONGEST), st.data())
def test_one_wrong_character_costs_the_number_that_it_is_of(ids: set[int], data: st.DataObject) -> None:
    """Whatever it is made: the row is as sound as any then, and each entry is in its place, or counts as removed."""
    sent = sorted(ids)
    connection = _file(sent)
    assert unsound(connection) == []
    text = run_of(sent)
    at = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.sampled_from('0123456789,-.[]{}"e \0x\u00e9'))
    connection.execute("UPDATE sync SET run = ? WHERE seq > 2", (text[:at] + wrong + text[at + 1 :],))
    for row in unsound(connection):
        assert (row.first, row.last) == (3, len(sent) + 2)
        message, count, run, told = made_sound(connection, row)
        connection.execute("UPDATE sync SET message = ?, count = ?, run = ? WHERE seq > 2", (message, count, run))
        assert unsound(connection) == []
        found = connection.execute("SELECT seq, message FROM entries WHERE last > 2 ORDER BY last").fetchall()
        right = [id for (_, id), was in zip(found, sent, strict=True) if id == was]
        assert [seq for seq, _ in found] == list(range(3, len(sent) + 3))
        assert told == sum(id > 0 for _, id in found)
        assert len(right) >= (1 if "," in (text[at], wrong) else len(sent) - 1)
    connection.close()


def test_a_check_reads_each_row_once(tmp_path: Path) -> None:
    """By the steps of SQLite's machine: twice the rows take twice as many."""
    steps = []
    for count in (200, 400):
        connection = sqlite3.connect(":memory:")
        connection.executescript("".join(MIGRATIONS))
        connection.execute("INSERT INTO users VALUES (1, 'u/ann', 0)")
        text = run_of(list(range(1, 11)))
        for n in range(1, count + 1):
            connection.execute(
                "INSERT INTO sync (user, seq, message, count, run) VALUES (1, ?, ?, 10, ?)", (n * 10, n * 10, text)
            )
        passed = 0

        def step() -> None:
            nonlocal passed
            passed += 1

        connection.set_progress_handler(step, 100)
        assert unsound(connection) == []
        steps.append(passed)
        connection.close()
    assert steps[1] <= 2 * steps[0] + 5
