"""Trimming inboxes, and what readers see afterwards."""

from __future__ import annotations

import pytest

from plugins.jobs import inboxes
from storage.records import DeviceKey
from tests.jobs.conftest import MakeHouse
from tests.jobs.test_retention import fill, reader

KEEP = {"schedule": "never", "keep": 2}


async def test_acknowledged_entries_go_but_for_the_newest(house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "STEP", 3)
    async with house(inboxes=KEEP) as made:
        phone = await reader(made, "phone", "chat/#")
        await fill(made, "chat/a", 10)
        await phone.messages(9)
        await phone.message(finish=False)
        await phone.ping()
        assert await made.run("inboxes") == {"inboxes": 1, "removed": 7}
        assert await made.storage.inbox_bounds("c/phone") == (8, 10)
        assert await made.storage.conversation_bounds("chat/a") == (1, 10)
        assert made.server.counters.entries_trimmed == 7
        await made.lose(phone, "phone")
        phone = await made.durable("phone")
        assert (await phone.message()).payload == b"10"
        await phone.quiet()


async def test_nothing_goes_that_a_device_of_the_user_still_waits_for(house: MakeHouse) -> None:
    async with house(inboxes={"schedule": "never", "keep": 0}) as made:
        worker = await reader(made, "worker", "$share/crew/jobs/#")
        await made.lose(worker, "worker")
        phone = await reader(made, "phone", "jobs/#")
        await fill(made, "jobs/x", 4)
        await phone.messages(4)
        await phone.ping()
        assert await made.run("inboxes") == {"inboxes": 2, "removed": 4}
        assert await made.storage.inbox_bounds("c/phone") == (5, 4)
        assert await made.storage.inbox_bounds("s/crew/jobs/#") == (1, 4)
        worker = await made.durable("worker")
        assert len(await worker.messages(4)) == 4
        await worker.ping()
        assert (await made.run("inboxes"))["removed"] == 4


async def test_a_device_behind_the_first_kept_entry_goes_on_there(house: MakeHouse) -> None:
    async with house(inboxes=KEEP) as made:
        phone = await reader(made, "phone", "chat/#")
        await fill(made, "chat/a", 6)
        await phone.messages(6)
        await made.lose(phone, "phone")
        assert (await made.run("inboxes"))["removed"] == 4
        key = DeviceKey("c/phone", "phone")
        assert await made.server.api.readers.set_offset(key, 0) == 0
        page = await made.server.api.readers.page(key, 0, 10, 1 << 20, None)
        assert (page.first, [entry.seq for entry in page.entries], page.head) == (5, [5, 6], 6)
        phone = await made.durable("phone")
        assert [m.payload for m in await phone.messages(2)] == [b"5", b"6"]
        await phone.quiet()


async def test_an_inbox_without_living_devices_keeps_its_newest(house: MakeHouse) -> None:
    async with house(inboxes=KEEP) as made:
        phone = await reader(made, "phone", "chat/#")
        await made.lose(phone, "phone")
        await fill(made, "chat/a", 5)
        await (await made.client("phone")).leave()
        assert (await made.run("inboxes"))["removed"] == 3
        assert await made.storage.inbox_bounds("c/phone") == (4, 5)
