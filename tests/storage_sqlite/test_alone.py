"""A message that has a group to itself: one statement, and whole or absent."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from storage.records import DeviceKey
from storage.sqlite.backend import SqliteStorage
from tests.storage.samples import Maker, fields_of

ANN = DeviceKey("u/ann", "phone")


@pytest.mark.parametrize("recipients", [[], [ANN.user]], ids=["for nobody", "for one inbox"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_it_is_one_statement(storage: SqliteStorage, recipients: list[str], qos: int) -> None:
    make = Maker()
    await storage.commit([make.append("chat/a", [ANN.user])])  # its timelines are known from here on
    assert storage._writer is not None
    statements: list[str] = []
    storage._writer.connection.set_trace_callback(statements.append)
    appends = [make.append("chat/a", recipients) for _ in range(2)]
    for append in appends:
        append.message.qos = qos
        await storage.commit([append])
    storage._writer.connection.set_trace_callback(None)
    assert [statement for statement in statements if statement.startswith(("BEGIN", "COMMIT"))] == []
    assert any(statement.startswith("INSERT") for statement in statements)
    found = await storage.read_conversation("chat/a", after=1)
    assert list(map(fields_of, found)) == [fields_of(append.message) for append in appends]
    assert [entry.seq for entry in await storage.read_inbox(ANN.user, 0, 10)] == list(range(1, 2 + 2 * len(recipients)))
    assert await storage.check(full=True) == []


async def test_nothing_of_it_stays_where_its_entry_cannot_be_stored(storage: SqliteStorage, tmp_path: Path) -> None:
    """It is stored again as a whole then, behind what took its place."""
    make = Maker()
    first, second = make.append("chat/a", [ANN.user]), make.append("chat/a", [ANN.user])
    await storage.commit([first])
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection, connection:
        connection.execute("INSERT INTO sync (user, seq, message) VALUES (1, 2, 0)")  # what the next entry would be
    await storage.commit([second])
    assert (second.error, second.message.seq, list(second.inbox_seqs)) == (None, 2, [3])
    assert list(map(fields_of, await storage.read_conversation("chat/a"))) == [fields_of(a.message) for a in (first, second)]
    assert fields_of((await storage.read_inbox(ANN.user, 2, 10))[0].message) == fields_of(second.message)
