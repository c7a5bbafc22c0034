"""Look-ups that come while one is under way share the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.errors import StorageUnavailable
from storage.records import DeviceKey
from storage.sqlite import SqliteStorage
from storage.sqlite.gathering import Gathering
from tests.storage.samples import opened


class Source:
    """Finds even numbers, once it is let; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may = asyncio.Event()
        self.error: Exception | None = None

    async def look_up(self, keys: Sequence[int]) -> dict[int, list[int]]:
        self.asked.append(list(keys))
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return {key: [key] for key in keys if key % 2 == 0}


async def begun(gathering: Gathering[int, list[int]], *keys: int) -> list[asyncio.Task[list[int] | None]]:
    tasks = [asyncio.create_task(gathering.get(key)) for key in keys]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_comes_while_one_is_under_way_shares_the_next() -> None:
    source = Source()
    gathering = Gathering(source.look_up)
    first = await begun(gathering, 2)
    rest = await begun(gathering, 3, 4, 5, 6)
    source.may.set()
    assert await asyncio.gather(*first, *rest) == [[2], None, [4], None, [6]]
    assert source.asked == [[2], [3, 4, 5, 6]]
    assert await gathering.get(8) == [8], "and it begins again"


async def test_who_asks_for_one_key_twice_is_given_two_objects() -> None:
    source = Source()
    gathering = Gathering(source.look_up)
    tasks = await begun(gathering, 1, 2, 2, 2)
    source.may.set()
    _, one, two, three = await asyncio.gather(*tasks)
    assert one == two == three == [2]
    assert len({id(one), id(two), id(three)}) == 3


async def test_an_error_is_raised_to_all_of_one_query_and_to_nobody_else() -> None:
    source = Source()
    gathering = Gathering(source.look_up)
    source.error = StorageUnavailable("away")
    tasks = await begun(gathering, 2, 4)
    source.may.set()
    for task in tasks:
        with pytest.raises(StorageUnavailable, match="away"):
            await task
    source.error = None
    assert await gathering.get(4) == [4]


async def test_who_waits_no_more_holds_nobody_up() -> None:
    source = Source()
    gathering = Gathering(source.look_up)
    first, *rest = await begun(gathering, 2, 4, 6)
    first.cancel()
    rest[0].cancel()
    source.may.set()
    assert await rest[1] == [6]
    assert source.asked in ([[2, 4, 6]], [[2], [6]])


async def test_nobody_waits_for_what_was_broken_off() -> None:
    """As where the loop ends: neither who is in the query under way, nor who is in the next one."""
    source = Source()
    gathering = Gathering(source.look_up)
    tasks = [*await begun(gathering, 2), *await begun(gathering, 4)]
    (work,) = (task for task in asyncio.all_tasks() if task.get_name() == "look-ups")
    work.cancel()
    async with asyncio.timeout(30):
        assert [type(found) for found in await asyncio.gather(*tasks, return_exceptions=True)] == [asyncio.CancelledError] * 2
    source.may.set()
    assert await gathering.get(6) == [6], "and it begins again"


async def test_many_devices_at_once_are_each_given_their_own(tmp_path: Path) -> None:
    """Also names that JSON has to escape, and devices that are not there."""
    names = ['"', "\\", "é", "会", "\U0001f600", *map(str, range(600))]
    keys = [DeviceKey(f"u/{name}", name) for name in names]
    storage = SqliteStorage(tmp_path / "t.db")
    await storage.open()
    await storage.commit([opened(key, number) for number, key in enumerate(keys, 1) if number % 3])
    found = await asyncio.gather(*(storage.device(key) for key in keys))
    assert [device and (device.key, device.epoch) for device in found] == [
        (key, number) if number % 3 else None for number, key in enumerate(keys, 1)
    ]
    await storage.close()
