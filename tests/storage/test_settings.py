"""What an administrator keeps: saved with a group, replaced by kind and key, and there after a restart."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from storage.errors import MessageRefused
from storage.interface import Storage
from storage.records import MAX_SETTING, DropSetting, SaveSetting, Setting
from storage.sqlite import SqliteStorage
from storage.sqlite.schema import APPLICATION_ID, MIGRATIONS
from tests.storage.backends import Backend
from tests.storage.samples import Maker

ANN, RULE = Setting("user", "ann", b"\x00\xff"), Setting("rule", "ann", b"allow")


async def test_a_setting_is_what_was_saved_last_of_it(storage: Storage, make: Maker) -> None:
    assert await storage.settings("user") == await storage.settings("") == []
    names = ["\U0001f600", "\uffff", "ann", "é", "b/#", ""]
    await storage.commit([SaveSetting("user", name, name.encode()) for name in names])
    assert [setting.key for setting in await storage.settings("user")] == sorted(names, key=str.encode)
    dropped = [DropSetting("user", name) for name in names]
    await storage.commit(
        [*dropped, make.append(), SaveSetting(*ANN._replace(value=b"old")), SaveSetting(*ANN), SaveSetting(*RULE)]
    )
    assert await storage.settings("user") == [ANN]
    assert await storage.settings("rule") == [RULE]
    assert await storage.settings("") == [RULE, ANN]
    assert await storage.settings("use") == await storage.settings("users") == []
    await storage.commit(
        [DropSetting("user", "nobody"), SaveSetting(*ANN), DropSetting("user", "ann"), DropSetting("rule", "ann")]
    )
    assert await storage.settings("") == []


async def test_one_that_is_too_large_is_refused_alone(storage: Storage) -> None:
    large = SaveSetting("user", "bob", b"x" * (MAX_SETTING + 1))
    await storage.commit([SaveSetting(*ANN), large, SaveSetting("user", "cid", b"x" * MAX_SETTING)])
    assert isinstance(large.error, MessageRefused)
    assert [setting.key for setting in await storage.settings("user")] == ["ann", "cid"]


async def test_settings_survive_a_restart(durable: Backend) -> None:
    storage = await durable.open()
    await storage.commit([SaveSetting(*ANN)])
    again = await durable.reopen(storage)
    try:
        assert await again.settings("user") == [ANN]
    finally:
        await again.close()


async def test_a_file_from_before_there_were_settings_is_read_as_it_is_and_migrated_by_the_broker(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(f"{''.join(MIGRATIONS[:5])} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=5;")
    for read_only, expected in ((True, []), (False, [ANN]), (True, [ANN])):
        storage = SqliteStorage(path, read_only=read_only)
        await storage.open()
        if not read_only:
            await storage.commit([SaveSetting(*ANN)])
        assert await storage.settings("user") == expected
        await storage.close()
