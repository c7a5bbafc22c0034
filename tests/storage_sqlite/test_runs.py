"""Inbox entries that share a row: whoever asks sees each by itself, wherever a page, a removal or a search cuts a run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from storage.factory import open_source, open_target, open_url, open_verifier
from storage.records import Append, DeviceKey
from storage.sqlite import pages
from storage.sqlite.backend import SqliteStorage
from storage.sqlite.runs import LONGEST, REMOVE_ENTRY, VERSION
from storage.sqlite.schema import APPLICATION_ID, MIGRATIONS
from tests.storage.samples import Maker, fields_of, opened, subscribe, whole_inbox

ANN = DeviceKey("u/ann", "phone")
BOB = "u/bob"
EDGES = (1, 2, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST + 1)


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT user, seq, count FROM sync ORDER BY user, seq").fetchall()


async def inbox(storage: SqliteStorage, user: str) -> list[tuple[int, object, str]]:
    return [(entry.seq, fields_of(entry.message), entry.target) for entry in await storage.read_inbox(user, 0, 10_000)]


def sent(appends: list[Append], user: str) -> list[tuple[int, object, str]]:
    return [(op.inbox_seqs[list(op.recipients).index(user)], fields_of(op.message), "") for op in appends]


@pytest.mark.parametrize("count", EDGES)
async def test_a_group_writes_a_row_for_each_so_many_entries(storage: SqliteStorage, tmp_path: Path, count: int) -> None:
    make = Maker()
    group = []
    for _ in range(count):  # another conversation between them, of one of the two
        group += [make.append("chat/b", [ANN.user]), make.append("chat/a", [ANN.user, BOB])]
    await storage.commit(group)
    assert sum(1 for user, *_ in rows(tmp_path / "t.db") if user == 1) == -(-2 * count // LONGEST)
    assert sum(1 for user, *_ in rows(tmp_path / "t.db") if user == 2) == -(-count // LONGEST)
    assert await inbox(storage, ANN.user) == sent(group, ANN.user)
    assert await inbox(storage, BOB) == sent(group[1::2], BOB)
    assert await whole_inbox(storage, BOB) == sent(group[1::2], BOB)
    assert (await storage.inbox_bounds(BOB), await storage.check(full=True)) == ((1, count), [])


async def test_an_entry_for_one_device_ends_a_run(storage: SqliteStorage, tmp_path: Path) -> None:
    make = Maker()
    await storage.commit([opened(ANN), make.append("state", retain=True)])
    before, behind = make.appends(3, to=[ANN.user]), make.appends(2, to=[ANN.user])
    for_one = subscribe(ANN, "state")
    for_one.retained = await storage.retained_range("", "", 1)
    await storage.commit([*before, for_one, *behind])
    assert rows(tmp_path / "t.db") == [(1, 3, 3), (1, 4, 1), (1, 6, 2)]
    expected = [*sent(before, ANN.user), (4, fields_of(for_one.retained[0]), ANN.client_id), *sent(behind, ANN.user)]
    assert await inbox(storage, ANN.user) == expected


@pytest.mark.parametrize("floor", [1, 2, LONGEST - 1, LONGEST, LONGEST + 1, 2 * LONGEST + 1])
async def test_removal_cuts_a_run(storage: SqliteStorage, tmp_path: Path, floor: int) -> None:
    group = Maker().appends(2 * LONGEST + 2, to=[ANN.user, BOB])
    await storage.commit(group)
    assert await storage.prune_inbox(ANN.user, floor + 1) == floor
    assert await storage.inbox_bounds(ANN.user) == (floor + 1, len(group))
    assert await inbox(storage, ANN.user) == sent(group[floor:], ANN.user)
    assert await inbox(storage, BOB) == sent(group, BOB)
    assert sum(int(str(count)) for user, _, count in rows(tmp_path / "t.db") if user == 1) == len(group) - floor
    assert await storage.check(full=True) == []


async def test_a_message_is_found_wherever_in_a_run_it_is(storage: SqliteStorage) -> None:
    make = Maker()
    group = make.appends(2 * LONGEST + 3, to=[ANN.user])
    await storage.commit(group)
    alone = make.append(to=[BOB, ANN.user])
    await storage.commit([alone])
    for op in (*group, alone):
        places = dict(zip(op.recipients, op.inbox_seqs, strict=True))
        found = await storage.entries_of(op.message, [ANN.user, BOB])
        assert found == [places.get(ANN.user, 0), places.get(BOB, 0)]


async def test_a_start_in_the_past_is_found_within_a_run(storage: SqliteStorage) -> None:
    group = Maker().appends(LONGEST + 40, to=[ANN.user])
    await storage.commit(group)
    for place in (0, 1, 50, LONGEST - 1, LONGEST, LONGEST + 39):
        device = opened(DeviceKey(ANN.user, f"tablet {place}"), start=f"since:{group[place].message.time}")
        await storage.commit([device])
        assert device.offset == place


async def test_a_page_reads_no_more_of_an_inbox_than_it_has(tmp_path: Path) -> None:
    """By the steps of SQLite's machine: a page of 10 of a long inbox takes no more than one of a short inbox."""
    steps = []
    for groups in (2, 200):
        path = tmp_path / f"{groups}.db"
        storage, make = open_url(f"sqlite:///{path}"), Maker()
        await storage.open()
        for _ in range(groups):
            await storage.commit(make.appends(50, to=[ANN.user]))
        await storage.close()
        steps.append(_steps(path, _page))
    assert steps[1] <= steps[0] + 20


def _page(connection: sqlite3.Connection) -> None:
    assert len(pages.inbox(connection, ANN.user, 7, 10, 1 << 20)) == 10


async def test_to_mend_an_entry_reads_no_more_of_an_inbox_than_its_run(tmp_path: Path) -> None:
    steps = []
    for count in (LONGEST + 5, 8 * LONGEST):
        path = tmp_path / f"{count}.db"
        storage, make = open_url(f"sqlite:///{path}"), Maker()
        await storage.open()
        for _ in range(count):
            await storage.commit(make.appends(1, to=[ANN.user]))
        await storage.close()
        steps.append(_steps(path, lambda connection: connection.execute(REMOVE_ENTRY, (ANN.user, 1))))
    assert steps[1] <= steps[0] + 5


def _steps(path: Path, work: Callable[[sqlite3.Connection], object]) -> int:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM sync").fetchall()  # the schema is read
        connection.set_progress_handler(step, 10)
        work(connection)
    return count


async def test_ids_that_do_not_rise_are_no_run(storage: SqliteStorage, tmp_path: Path) -> None:
    make = Maker()
    first, second, third = make.appends(3, to=[ANN.user])
    await storage.commit([second, first, third])
    assert rows(tmp_path / "t.db") == [(1, 1, 1), (1, 2, 1), (1, 3, 1)]
    assert await inbox(storage, ANN.user) == sent([second, first, third], ANN.user)


async def test_an_export_and_an_import_have_the_same_entries(tmp_path: Path) -> None:
    """In rows again, and retention may have gone on meanwhile."""
    storage, make = open_url(f"sqlite:///{tmp_path}/a.db"), Maker()
    await storage.open()
    group = make.appends(LONGEST + 30, to=[ANN.user])
    await storage.commit(group)
    await storage.close()
    async with open_source(f"sqlite:///{tmp_path}/a.db") as source, open_target(f"sqlite:///{tmp_path}/b.db") as target:
        assert (await source.about()).records == 2 * len(group) + 2
        async for records in source.records():
            await target.write(records)
        await target.write([("inbox", ANN.user, 7)])
        await target.finish()
    assert rows(tmp_path / "b.db") == [(1, LONGEST, LONGEST - 7), (1, LONGEST + 30, 30)]
    copy = SqliteStorage(tmp_path / "b.db")
    await copy.open()
    assert await inbox(copy, ANN.user) == sent(group[7:], ANN.user)
    await copy.close()


async def test_a_file_from_before_there_were_runs_is_read_as_it_is_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = VERSION - 1
    with closing(sqlite3.connect(path)) as connection:
        script = "".join(MIGRATIONS[:old])
        connection.executescript(f"{script} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={old};")
        connection.execute("INSERT INTO users VALUES (1, 'u/ann', 0)")
        connection.execute("INSERT INTO conversations VALUES (1, 'a/b', 0, 0)")
        for n in (1, 2, 3):
            connection.execute("INSERT INTO store VALUES (?, 1, ?, 'u/bob', '', ?, 1, 0, 0, x'', x'31')", (n, n, n))
            connection.execute("INSERT INTO sync VALUES (1, ?, ?, NULL)", (n, n))
        connection.commit()
    url = f"sqlite:///{path}"
    assert await open_verifier(url).check(lambda what: None) == []
    async with open_source(url) as source:
        records = [record for page in [page async for page in source.records()] for record in page]
    assert [record[1:4] for record in records if record[0] == "entry"] == [("u/ann", n, n) for n in (1, 2, 3)]
    storage, make = SqliteStorage(path), Maker()
    await storage.open()
    make.id = 3
    await storage.commit(make.appends(2, to=["u/ann"]))
    assert [entry.seq for entry in await storage.read_inbox("u/ann", 0, 10)] == [1, 2, 3, 4, 5]
    assert await storage.check(full=True) == []
    await storage.close()
    assert rows(path) == [(1, 1, 1), (1, 2, 1), (1, 3, 1), (1, 5, 2)]
