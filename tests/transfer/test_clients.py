"""Clients that are ahead of a copy: each is told, and none skips what has its sequences now."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.packets.model import PubComp, PubRec, PubRel
from broker.packets.publish import Publish
from storage.factory import open_url
from tests.http.conftest import Site, site
from tests.support import mongo_server
from tests.support.wire import Client
from tests.transfer.sample import exported, imported


@asynccontextmanager
async def empty(kind: str, folder: Path) -> AsyncIterator[str]:
    """An empty database of a kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/copy.db"
        return
    name = mongo_server.new_database()
    yield mongo_server.url(name)
    await mongo_server.drop(name)


async def connected(broker: Site, version: int, *, present: bool) -> Client:
    client = await broker.socket(version)
    ack = await client.connect("phone", clean=False, expiry=3600 if version == 5 else None)
    assert ack.session_present is present
    return client


@pytest.mark.parametrize(("kind", "version"), [("sqlite", 4), ("mongodb", 5)])
async def test_a_device_is_told_once_and_goes_on_from_the_copy(tmp_path: Path, kind: str, version: int) -> None:
    """Its filters and offset are the copy's. What was in flight both ways is given up: a packet id of before is no repeat."""
    origin = f"sqlite:///{tmp_path}/origin.db"
    async with site(origin, plugins={}) as broker:
        phone = await connected(broker, version, present=False)
        await phone.subscribe("chat/#", options=1)
        publisher = await broker.client("publisher")
        for text in (b"1", b"2", b"3"):
            await publisher.publish("chat/a", text)
        assert (await phone.message()).payload == b"1"
        phone.send(Publish("log/a", b"before", 2, packet_id=700))
        while not isinstance(await phone.receive(), PubRec):
            pass
        await broker.lose(phone, "phone")
    await exported(origin, tmp_path / "export")
    async with empty(kind, tmp_path) as url:
        await imported(tmp_path / "export", url)
        async with site(url, plugins={}) as broker:
            phone = await connected(broker, version, present=False)
            assert [(m.payload, m.dup) for m in await phone.messages(2)] == [(b"2", False), (b"3", False)]
            await broker.lose(phone, "phone")
        async with site(url, plugins={}) as broker:
            phone = await connected(broker, version, present=True)
            phone.send(Publish("log/a", b"after", 2, packet_id=700))
            assert (await phone.expect(PubRec)).packet_id == 700
            phone.send(PubRel(700))
            await phone.expect(PubComp)
            assert await broker.server.storage.conversation_bounds("log/a") == (1, 2)
            await (await broker.client("publisher")).publish("chat/a", b"4")
            assert (await phone.message()).payload == b"4"


async def test_who_keeps_offsets_of_their_own_is_told_to_begin_anew(tmp_path: Path) -> None:
    """Also once the copy has as many entries again, so that the offset names another message."""
    origin, copy = f"sqlite:///{tmp_path}/origin.db", f"sqlite:///{tmp_path}/copy.db"
    async with site(origin, plugins={}) as broker:
        phone = await broker.durable("phone")
        await phone.subscribe("chat/#", "$sync/reply/phone", options=0)
        publisher = await broker.client("publisher")
        await publisher.publish("chat/a", b"in the copy")
        await exported(origin, tmp_path / "export")
        await publisher.publish("chat/a", b"lost")
        await phone.drop()
        caller = broker.caller()
        of_phone = {"device": "phone", "user": "c/phone"}
        was = (await caller.get("/sync", params={**of_phone, "after": 1})).json()
        assert [entry["offset"] for entry in was["entries"]] == [2]
        told = (await caller.get("/sync", params={**of_phone, "after": 3})).json()
        assert (told["status"], told["type"]) == (409, "urn:tideline:resync")
    await imported(tmp_path / "export", copy)
    async with site(copy, plugins={}) as broker:
        phone = await broker.durable("phone")
        publisher = await broker.client("publisher")
        await publisher.publish("chat/a", b"two in its place")
        await publisher.publish("chat/a", b"three")
        while (await phone.message()).payload != b"three":
            pass
        caller = broker.caller()
        for more in ({"after": "2"}, {"after": "2", "data_epoch": was["data_epoch"]}, {"after": "4"}):
            answer = await caller.get("/sync", params={**of_phone, **more})
            assert (answer.status_code, answer.json()["type"]) == (409, "urn:tideline:resync"), more
        now = (await caller.get("/sync", params={**of_phone, "after": 0})).json()
        assert [entry["message"]["payload"] for entry in now["entries"]] == ["in the copy", "two in its place", "three"]
        assert now["data_epoch"] != was["data_epoch"]
        for after, epoch, payloads in [("2", now["data_epoch"], ["three"]), ("0", "", None)]:
            fine = (await caller.get("/sync", params={**of_phone, "after": after, "data_epoch": epoch})).json()
            assert payloads is None or [entry["message"]["payload"] for entry in fine["entries"]] == payloads
        stale = {"Accept": "text/event-stream", "Last-Event-ID": f"{was['data_epoch']}.2"}
        assert (await caller.get("/sync", params=of_phone, headers=stale)).status_code == 409
        for more in ({}, {"data_epoch": was["data_epoch"]}):
            await phone.publish("$sync/request", json.dumps({"op": "sync", "after": 2, **more}).encode())
            assert json.loads((await phone.message()).payload)["error"]["name"] == "resync"
        await phone.publish("$sync/request", json.dumps({"op": "sync", "after": 2, "data_epoch": now["data_epoch"]}).encode())
        assert [e["offset"] for e in json.loads((await phone.message()).payload)["entries"]] == [3]
        claim = await caller.post("/sync/ack", json={**of_phone, "epoch": was["epoch"] or 1, "offset": 2})
        assert claim.status_code == 409


async def test_each_database_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    found = set()
    for url in ("memory://", "memory://", f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/a.db"):
        storage = open_url(url)
        await storage.open()
        found.add(await storage.data_epoch())
        await storage.close()
    assert len(found) == 3
