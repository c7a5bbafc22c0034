"""What a publisher over HTTP is told while storage is away: the truth."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker import commits
from broker.amqtt import server_api
from storage.errors import StorageUnavailable
from storage.records import Operation
from storage.sqlite import free_space, unmoved
from tests.http.conftest import HTTP, Site, site
from tests.support.until import until


class Valve:
    """Stands before a storage's commit and can keep it from answering."""

    def __init__(self, storage: Any) -> None:
        self._commit = storage.commit
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()
        storage.commit = self.commit

    async def commit(self, group: Sequence[Operation]) -> None:
        self.asked.set()
        if not self.open.is_set():
            raise StorageUnavailable("the test says so")
        await self._commit(group)


@pytest.fixture
async def away() -> AsyncIterator[tuple[Site, Valve]]:
    async with site(plugins={"http": {**HTTP["http"], "storage_timeout": 0.3}}, errors=True) as made:
        valve = Valve(made.server.storage)
        yield made, valve
        valve.open.set()


async def test_503_only_for_what_storage_never_saw(away: tuple[Site, Valve]) -> None:
    made, valve = away
    http = made.caller()
    valve.open.clear()
    handed = await http.post("/conversations/t/messages", json={"payload": "first"}, headers={"Idempotency-Key": "a"})
    assert (handed.status_code, handed.json()["state"]) == (202, "pending")
    never = await http.post("/conversations/t/messages", json={"payload": "second"})
    assert never.status_code == 503
    assert never.headers["retry-after"]
    assert (await http.get("/health")).status_code == 503
    ready = await http.get(f"{made.url}/readyz")
    assert (ready.status_code, ready.text) == (503, "storage-away\n")
    assert (await http.get(f"{made.url}/healthz")).status_code == 200
    valve.open.set()
    again = await http.post("/conversations/t/messages", json={"payload": "first"}, headers={"Idempotency-Key": "a"})
    while again.status_code in (202, 503):  # it waits for the one that was handed over, and for no longer than 0.3 s
        again = await http.post("/conversations/t/messages", json={"payload": "first"}, headers={"Idempotency-Key": "a"})
    assert (again.status_code, again.json()["seq"]) == (200, 1)
    history = (await http.get("/conversations/t/messages")).json()["messages"]
    assert [m["payload"] for m in history] == ["first"]


@pytest.fixture
async def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """Its storage is looked at all the time."""
    monkeypatch.setattr(commits, "_PROBE", 0.0)
    monkeypatch.setattr(unmoved, "_PAUSE", 0.0)
    monkeypatch.setattr(free_space, "_LONGEST", 0.0)
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={}, errors=True) as made:
        yield made


async def readiness(made: Site, wanted: str) -> None:
    """Wait until `/readyz` says so."""
    http, said = made.caller(), ""
    async with asyncio.timeout(30):
        while said != wanted:
            said = (await http.get(f"{made.url}/readyz")).text.strip()


async def test_a_full_disk_is_known_before_anybody_publishes(
    on_disk: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await readiness(on_disk, "ready")
    real = os.statvfs
    with monkeypatch.context() as full:
        full.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=0, f_frsize=real(path).f_frsize))
        await readiness(on_disk, "disk-full")
        assert (await on_disk.caller().get("/health")).json()["status"] == "disk-full"
        await on_disk.durable("phone")  # a session is taken; it is no sign that messages are
        assert not on_disk.server.api.status().storage_available
        assert "storage is back" not in caplog.text
    await readiness(on_disk, "ready")
    assert caplog.text.count("storage is unavailable") == caplog.text.count("storage is back") == 1


async def test_a_database_that_was_removed_is_known_before_anybody_publishes(on_disk: Site, tmp_path: Path) -> None:
    await readiness(on_disk, "ready")
    (tmp_path / "t.db").rename(tmp_path / "away.db")
    await readiness(on_disk, "storage-away")
    (tmp_path / "away.db").rename(tmp_path / "t.db")
    await readiness(on_disk, "ready")


async def test_calls_that_go_on_when_their_callers_have_gone_have_a_bound(
    away: tuple[Site, Valve], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may still happen, and waits for storage. Beyond the bound nothing is begun, and the answer says so."""
    monkeypatch.setattr(server_api, "_MOST_LEFT", 3)
    made, valve = away
    http = made.caller()
    await (await made.durable("reader")).leave()
    valve.open.clear()
    await asyncio.gather(*(http.post("/devices/reader/subscriptions", json={"filter": f"{n}"}) for n in range(3)))
    there = len(asyncio.all_tasks())
    for _ in range(3):
        more = await http.post("/devices/reader/subscriptions", json={"filter": "more"})
        assert more.status_code == 503
        assert "3 requests wait for it already" in more.json()["detail"]
    assert len(asyncio.all_tasks()) <= there
    valve.open.set()
    await until(lambda: not made.server.api._left)
    await readiness(made, "ready")
    assert made.server.trie.count == 3
    assert (await http.post("/devices/reader/subscriptions", json={"filter": "more"})).status_code == 200


async def test_a_short_absence_is_waited_out(away: tuple[Site, Valve]) -> None:
    made, valve = away
    http = made.caller()
    valve.open.clear()
    valve.asked.clear()
    posting = asyncio.create_task(http.post("/conversations/t/messages", json={"payload": "x"}))
    await valve.asked.wait()
    valve.open.set()
    assert (await posting).status_code == 201


async def test_reads_go_on_meanwhile(away: tuple[Site, Valve]) -> None:
    made, valve = away
    http = made.caller()
    await http.post("/conversations/t/messages", json={"payload": "x"})
    valve.open.clear()
    assert (await http.get("/conversations/t/messages")).json()["last"] == 1
    token = await http.post("/tokens", json={})
    assert token.status_code == 503


async def test_who_waits_when_the_broker_stops_is_told_503_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """``shutdown_grace`` is for all of the stop, also where storage never comes back."""
    slow = {"http": {**HTTP["http"], "storage_timeout": 60}}
    async with site(plugins=slow, mqtt={"shutdown_grace": 1.0}, hooks={"timeout": 60}, errors=True) as made:
        valve = Valve(made.server.storage)
        valve.open.clear()
        http = made.caller()
        handed = asyncio.create_task(http.post("/conversations/t/messages", json={"payload": "in a group"}))
        await valve.asked.wait()
        waiting = asyncio.create_task(http.post("/conversations/t/messages", json={"payload": "behind it"}))
        await until(lambda: made.server.api.status().pending_messages >= 1)
        async with asyncio.timeout(30):  # for a loaded machine; a hook that is waited for to its limit takes 60
            await made.server.stop()
        assert (await handed).status_code == 202  # it may still be stored, and the answer says so
        never = await waiting
        assert (never.status_code, never.headers["content-type"]) == (503, "application/problem+json")
        assert "Traceback" not in caplog.text
        assert "Exception in ASGI" not in caplog.text
