"""However many rows a group has, and however they are cut into statements: what is stored is what one at a time would store."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from storage.factory import open_url
from storage.records import DropRow, PutRow
from storage.sqlite.batch import insert

EDGES = (1, 7, 8, 9, 31, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 600)
"""About where one statement becomes two, or another one."""


@pytest.mark.parametrize("count", EDGES)
def test_each_row_is_inserted_once_and_in_order(count: int) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (place INTEGER PRIMARY KEY, a, b)")
    insert(connection, "INSERT INTO t (a, b) VALUES", 2, [value for n in range(count) for value in (n, f"{n}")])
    assert connection.execute("SELECT a, b FROM t ORDER BY place").fetchall() == [(n, f"{n}") for n in range(count)]


@pytest.mark.parametrize("count", EDGES)
async def test_a_group_of_row_changes_does_what_one_at_a_time_does(count: int, tmp_path: Path) -> None:
    """Also where a row is changed several times within the group, at a revision that is right or wrong."""
    together, alone = open_url(f"sqlite:///{tmp_path}/a.db"), open_url(f"sqlite:///{tmp_path}/b.db")
    for storage in (together, alone):
        await storage.open()
        await storage.commit([PutRow("t", f"{n % 3}", f"k{n}", b"before") for n in range(0, count, 2)])

    def changes() -> list[PutRow | DropRow]:
        chance = random.Random(count)
        made: list[PutRow | DropRow] = []
        for _ in range(count):
            n = chance.randrange(count)
            expected = chance.choice([None, 0, n // 2 + 1, count])
            drop = chance.random() < 0.4
            part, key = f"{n % 3}", f"k{n}"
            made.append(DropRow("t", part, key, expected) if drop else PutRow("t", part, key, b"%d" % n, expected))
        return made

    group, singly = changes(), changes()
    await together.commit(group)
    for op in singly:
        await alone.commit([op])

    def outcome(op: PutRow | DropRow) -> tuple[int, type[Exception] | None]:
        return op.revision, type(op.error) if op.error is not None else None

    assert [outcome(op) for op in group] == [outcome(op) for op in singly]
    for part in ("0", "1", "2"):
        assert await together.rows("t", part, limit=1000) == await alone.rows("t", part, limit=1000)
    for storage in (together, alone):
        await storage.close()
