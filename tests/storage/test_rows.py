"""Rows: what plugins keep. An expected revision decides, also where an answer was lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from storage.errors import IdempotencyConflict, MessageRefused, RowChanged, StorageUnavailable
from storage.interface import Storage
from storage.records import MAX_ROW, MAX_ROW_NAME, Append, DropRow, Operation, PutRow, Row
from storage.sqlite import SqliteStorage
from storage.sqlite.schema import APPLICATION_ID, MIGRATIONS
from tests.storage.backends import Backend
from tests.storage.samples import START, Maker, all_rows, collect

NAMES = ["\U0001f600", "\uffff", "ann", "é", "b/#", "b", "b\x01"]


async def test_a_row_is_what_was_put_last_and_gone_once_it_is_dropped(storage: Storage, make: Maker) -> None:
    assert await storage.row("t", "p", "a") is None
    first = PutRow("t", "p", "a", b"\x00\xff")
    await storage.commit([first, make.append()])
    assert await storage.row("t", "p", "a") == Row("t", "p", "a", b"\x00\xff", first.revision)
    second, other = PutRow("t", "p", "a", b""), PutRow("t", "p2", "a", b"other")
    await storage.commit([second, other])
    assert second.revision > first.revision > 0
    assert await storage.row("t", "p", "a") == Row("t", "p", "a", b"", second.revision)
    dropped, missing = DropRow("t", "p", "a"), DropRow("t", "p", "nobody", expected=7)
    await storage.commit([dropped, missing])
    assert (missing.error, missing.revision) == (None, 0)
    assert dropped.revision > second.revision
    assert await storage.row("t", "p", "a") is None
    assert [row.value for row in await all_rows(storage)] == [b"other"]


async def test_a_part_is_read_in_pages_by_the_keys_bytes(storage: Storage) -> None:
    await storage.commit([PutRow("t", "p", name, name.encode()) for name in NAMES])
    await storage.commit([PutRow("t", "p\x01", "x", b""), PutRow("t\x01", "p", "x", b""), PutRow("t", "", "x", b"")])
    ordered = sorted(NAMES, key=str.encode)
    found: list[str] = []
    while page := await storage.rows("t", "p", after=found[-1] if found else "", limit=2):
        assert len(page) <= 2
        found += [row.key for row in page]
    assert found == ordered
    assert [row.key for row in await storage.rows("t", "p", prefix="b")] == ["b", "b\x01", "b/#"]
    assert [row.key for row in await storage.rows("t", "p", prefix="b", after="b\x01")] == ["b/#"]
    assert [row.key for row in await storage.rows("t", "p", prefix="b", after="a")] == ["b", "b\x01", "b/#"]
    assert await storage.rows("t", "p", prefix="b", after="c") == []
    assert await storage.rows("t", "p", limit=0) == await storage.rows("none", "p") == []
    assert [row.key for row in await storage.rows("t", "p", max_bytes=4)] == ordered[:2]
    assert len(await storage.rows("t", "p", max_bytes=1)) == 1


async def test_the_parts_of_a_table_are_told_once_each(storage: Storage) -> None:
    assert await collect(storage.parts("t")) == []
    rows = [PutRow("t", part, key, b"") for part in ["", *NAMES] for key in ("1", "2", "3")]
    await storage.commit([*rows, PutRow("t\x01", "other", "1", b""), PutRow("t", "gone", "1", b"")])
    await storage.commit([DropRow("t", "gone", "1")])
    assert [part for page in await collect(storage.parts("t")) for part in page] == sorted(["", *NAMES], key=str.encode)
    await storage.commit([PutRow("many", str(n), "1", b"") for n in range(1234)])
    pages = await collect(storage.parts("many"))
    assert len(pages) > 1
    assert [part for page in pages for part in page] == sorted(map(str, range(1234)))


async def test_what_is_said_of_a_message_is_not_written_where_that_is_refused_or_repeats(storage: Storage, make: Maker) -> None:
    """Nothing but what the message is stored with: what a resend would write anew may have changed since."""

    def said(append: Append) -> list[Operation]:
        key = f"{append.message.id:016x}"
        return [append, PutRow("t", "p", key, b"", 0, of=append), PutRow("t", "p", "last", append.message.payload, of=append)]

    until = START + 1_000_000
    first, second = make.append(payload=b"1", idempotency_key="k", idempotency_until=until), make.append(payload=b"2")
    await storage.commit([*said(first), *said(second)])
    kept = await all_rows(storage)
    assert {row.key: row.value for row in kept}["last"] == b"2"
    repeat, conflict = (make.append(payload=text, idempotency_key="k", idempotency_until=until) for text in (b"1", b"3"))
    refused = make.append(payload=b"4")
    refused.error = MessageRefused("by a plugin")
    dropped = [DropRow("t", "p", "last", of=one) for one in (repeat, conflict, refused)]
    group = [*said(repeat), *said(conflict), *said(refused), *dropped]
    await storage.commit(group)
    assert repeat.original == (first.message.id, first.message.seq)
    assert isinstance(conflict.error, IdempotencyConflict)
    assert await all_rows(storage) == kept
    rows = [op for op in group if isinstance(op, PutRow | DropRow)]
    assert [(op.revision, op.error) for op in rows] == [(0, None)] * 9


async def test_an_expected_revision_decides_and_what_is_refused_names_what_it_found(storage: Storage, make: Maker) -> None:
    first, twice = PutRow("t", "p", "a", b"1", expected=0), PutRow("t", "p", "a", b"2", expected=0)
    await storage.commit([first, twice, make.append()])
    assert first.error is None
    assert isinstance(twice.error, RowChanged)
    assert twice.error.revision == first.revision
    assert str(first.revision) in str(twice.error)
    second, late = PutRow("t", "p", "a", b"2", expected=first.revision), PutRow("t", "p", "a", b"3", expected=first.revision)
    await storage.commit([second])
    await storage.commit([late, drop := DropRow("t", "p", "a", expected=first.revision), make.append()])
    assert isinstance(late.error, RowChanged)
    assert isinstance(drop.error, RowChanged)
    assert await storage.row("t", "p", "a") == Row("t", "p", "a", b"2", second.revision)
    await storage.commit([DropRow("t", "p", "a", expected=second.revision)])
    gone = PutRow("t", "p", "a", b"", expected=second.revision)
    await storage.commit([gone])
    assert isinstance(gone.error, RowChanged)
    assert gone.error.revision == 0


async def test_a_row_that_is_put_anew_has_none_of_its_earlier_revisions(storage: Storage) -> None:
    revisions: list[int] = []
    for _ in range(3):
        put = PutRow("t", "p", "a", b"", expected=0)
        await storage.commit([put, again := PutRow("t", "p", "a", b"", None), drop := DropRow("t", "p", "a")])
        revisions += [put.revision, again.revision, drop.revision]
    assert revisions == sorted(set(revisions))
    assert await storage.row("t", "p", "a") is None


async def test_one_that_cannot_be_stored_is_refused_alone(storage: Storage) -> None:
    long = "é" * (MAX_ROW_NAME // 2)
    fine = [PutRow("t", "p", "b", b"x" * MAX_ROW), PutRow(long, long, long, b"long")]
    wrong: list[PutRow | DropRow] = [
        PutRow("t", "p", "a", b"x" * (MAX_ROW + 1)),
        PutRow("t", "p", long + "éé", b""),
        PutRow("t", "p", "", b""),
        PutRow("t", "p", "\ud800", b""),
        DropRow("t", "p", "\ud800"),
    ]
    await storage.commit([fine[0], *wrong, fine[1]])
    assert all(isinstance(op.error, MessageRefused) for op in wrong[:-1]), [op.error for op in wrong]
    assert [op.error for op in fine] == [None, None]
    assert [row.key for row in await all_rows(storage)] == ["b"]
    assert [row.value for row in await all_rows(storage, long)] == [b"long"]


@pytest.mark.inside
async def test_rows_whose_answer_was_lost_are_found_again(faulty: Backend, make: Maker) -> None:
    storage = await faulty.open()
    try:
        await storage.commit([kept := PutRow("t", "p", "b", b"1")])
        for number in range(4):  # which write of the group loses its answer, where it takes several
            new = PutRow("t", f"p{number}", "a", b"", expected=0)
            change = PutRow("t", "p", "b", b"%d" % number, expected=kept.revision)
            group: list[PutRow | DropRow] = [new, change, PutRow("t", "p", "c", b""), DropRow("t", "p", "c")]
            faulty.lose_answer(storage)
            for _ in range(5):
                with suppress(StorageUnavailable):
                    await storage.commit(group)
                    break
            faulty.lose_nothing(storage)
            assert [op.error for op in group] == [None] * 4
            assert change.revision == (await storage.rows("t", "p"))[0].revision
            kept = change
    finally:
        await storage.close()


async def test_rows_survive_a_restart(durable: Backend) -> None:
    storage = await durable.open()
    await storage.commit(
        [put := PutRow("t", "p", "a", b"kept"), drop := DropRow("t", "p", "a"), other := PutRow("t", "p", "b", b"")]
    )
    again = await durable.reopen(storage)
    try:
        assert await all_rows(again) == [Row("t", "p", "b", b"", other.revision)]
        await again.commit([anew := PutRow("t", "p", "a", b"")])
        assert anew.revision > drop.revision > put.revision
    finally:
        await again.close()


async def test_a_file_from_before_there_were_rows_is_read_as_it_is_and_migrated_by_the_broker(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(f"{''.join(MIGRATIONS[:7])} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=7;")
    for read_only, expected in ((True, 0), (False, 1), (True, 1)):
        storage = SqliteStorage(path, read_only=read_only)
        await storage.open()
        if not read_only:
            await storage.commit([PutRow("t", "p", "a", b"")])
        assert len(await all_rows(storage)) == len(await storage.rows("t", "p")) == expected
        assert (await storage.row("t", "p", "a") is not None) == bool(expected)
        await storage.close()
