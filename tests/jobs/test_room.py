"""Retention by bytes in all and by free disk; and the warning before the disk is full."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from plugins.jobs import plugin, retention, room
from plugins.jobs.config import Retention
from storage.interface import Measured
from storage.sqlite import SqliteStorage
from storage.sqlite.free_space import FreeSpace
from tests.jobs.conftest import QUIET, House, MakeHouse
from tests.storage.samples import Maker
from tests.support.until import until


def limits(**more: Any) -> dict[str, Any]:
    return {
        **QUIET,
        "rules": [{"filter": "audit/#"}, {"filter": "force/#", "max_age": "30d", "even_unacknowledged": True}],
        **more,
    }


async def fill(house: House) -> None:
    """Of each of five topics 20 messages of 5,000 bytes, in turn; somebody waits for two of the topics."""
    phone = await house.durable("phone")
    await phone.subscribe("wait/#", "force/#", options=1)
    await house.lose(phone, "phone")
    publisher = await house.client("publisher")
    for _ in range(20):
        for topic in ("audit/a", "wait/a", "force/a", "old/a", "old/b"):
            await publisher.publish(topic, bytes(5000))
    await publisher.leave()


async def kept(house: House) -> dict[str, tuple[int, int]]:
    return {topic: (first, last) async for topic, first, last in house.storage.conversations()}


async def test_the_oldest_go_until_the_limit_holds(house: MakeHouse, url: str) -> None:
    async with house(retention=limits(max_bytes="600 KiB")) as made:
        await fill(made)
        told = await made.run("retention")
        found = await kept(made)
        if not isinstance(made.storage, Measured):
            assert "max_bytes and keep_free change nothing" in told["note"]
            assert {first for first, _ in found.values()} == {1}
            return
        assert found["audit/a"] == found["wait/a"] == (1, 20)
        assert told["removed"] == sum(first - 1 for first, _ in found.values()) > 0
        if url.startswith("sqlite"):
            assert (await made.storage.volume()).used <= 600 << 10
            assert 0 < found["old/b"][0] - 1 <= found["old/a"][0] - 1 < 20  # the oldest of both
        assert (await made.run("retention"))["removed"] == 0 or url.startswith("mongodb")


async def test_without_rules_those_count_that_had_the_oldest_messages(house: MakeHouse, url: str) -> None:
    """Each once, in however many rounds it loses some."""
    async with house(retention={"schedule": "never", "max_bytes": "1 KiB"}) as made:
        publisher = await made.client("publisher")
        for number in range(1500):
            await publisher.publish(f"old/{number % 3}", b"")
        await publisher.leave()
        told = await made.run("retention")
        measured = isinstance(made.storage, Measured)
        assert told["conversations"] == (3 if measured else 0)
        assert told["removed"] > 0 or not measured


async def test_what_somebody_waits_for_is_spared_unless_it_is_said(house: MakeHouse, url: str) -> None:
    """However little is free: a disk that is to be empty has nothing else to give."""
    async with house(retention=limits(keep_free="100%")) as made:
        await fill(made)
        told = await made.run("retention")
        if not url.startswith("sqlite"):
            assert "keep_free change" in told["note"]
            assert told["removed"] == 0
            return
        found = await kept(made)
        assert (found["audit/a"], found["wait/a"]) == ((1, 20), (1, 20))
        assert found["force/a"] == found["old/a"] == found["old/b"] == (21, 20)
        assert (told["removed"], told["unacknowledged"], told["spared"] > 0, told["over_bytes"] > 0) == (60, 20, True, True)
    async with house(retention=limits(keep_free="100%", even_unacknowledged=True)) as made:
        assert (await made.run("retention"))["removed"] == 20
        assert (await kept(made))["audit/a"] == (1, 20)


async def test_what_is_spared_stays_so_when_more_is_looked_for(
    house: MakeHouse, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device waits for the beginning of a conversation, and not for what came after it had unsubscribed."""
    if not url.startswith("sqlite"):
        return
    monkeypatch.setattr(room, "_PAGE", 4)
    monkeypatch.setattr(room, "_TOGETHER", 4)
    async with house(retention=limits(keep_free="100%")) as made:
        phone, publisher = await made.durable("phone"), await made.client("publisher")
        await phone.subscribe("left/#", options=1)
        for _ in range(3):
            await publisher.publish("left/a")
            await phone.message(finish=False)
        await phone.unsubscribe("left/#")
        await made.lose(phone, "phone")
        for _ in range(9):
            await publisher.publish("left/a")
        assert (await made.run("retention"))["removed"] == 0
        assert await kept(made) == {"left/a": (1, 12)}


async def test_room_is_made_while_the_disk_is_too_full_for_messages(
    house: MakeHouse, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher waits for it, and every offset that is to be stored waits behind that."""
    if not url.startswith("sqlite"):
        return
    monkeypatch.setattr(retention, "SAVED_WITHIN", 0.1)
    monkeypatch.setattr(plugin, "_SAVE", 0.1)
    monkeypatch.setattr(logging.getLogger("broker.commits"), "disabled", True)  # what it says is no fault here
    async with house(retention=limits(keep_free="100%")) as made:
        publisher = await made.client("publisher")
        for _ in range(3):
            await publisher.publish("old/a")
        assert isinstance(made.storage, SqliteStorage)
        made.storage._space = made.storage._writer._space = FreeSpace(made.storage._path, 1 << 60)  # type: ignore[union-attr]
        waits = asyncio.create_task(publisher.publish("old/a"))
        await until(lambda: made.server.api.status().disk_full)
        assert (await made.run("retention"))["removed"] == 3
        assert not waits.done()
        made.storage._space._low_water = 0  # as if that had been enough
        await waits
        assert await kept(made) == {"old/a": (4, 4)}


def test_a_limit_that_is_none_is_refused_by_name() -> None:
    for field, value in [
        ("max_bytes", "much"),
        ("max_bytes", -1),
        ("max_bytes", "10%"),
        ("keep_free", "101%"),
        ("keep_free", "x%"),
        ("keep_free", 10),
        ("keep_free", "10"),
    ]:
        with pytest.raises(ValueError, match=f"retention.{field} {value!r}: must be "):
            Retention(**{field: value})  # type: ignore[arg-type]
    assert Retention(keep_free="10 %").bytes_free(1000) == 100
    assert Retention(max_bytes="2 GiB").bytes_in_all == 2 << 30


async def test_little_space_is_warned_of_while_messages_are_still_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mark that is a fifth of what is free: ten times that is not there."""
    state = os.statvfs(tmp_path)
    mark = state.f_bavail * state.f_frsize // 5
    make, storage = Maker(), SqliteStorage(tmp_path / "t.db", low_water_bytes=mark)
    await storage.open()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await storage.commit([make.append()])
    space = storage.space()
    assert space is not None
    assert space.low
    assert [record.levelname for record in caplog.records if "MiB left" in record.getMessage()] == ["WARNING"]
    await storage.close()
    assert not (FreeSpace(tmp_path / "t.db", 0).now() or space).low
