"""While storage does not answer, what needs a look into it waits as every message does, and is stored once storage is back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from broker.packets.model import PubAck, Publish
from broker.packets.properties import Property
from plugins.conversations import plugin as plugin_module
from tests.attachments.parts import whole
from tests.conversations.conftest import follows, group, say
from tests.http.conftest import HTTP, Site, passwords, sites
from tests.support import mongo_server
from tests.support.mongo_proxy import Command, MongoProxy
from tests.support.until import until
from tests.support.wire import Client

__all__ = ["passwords", "sites"]

NO_SUBSCRIBERS = 0x10
Sites = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
async def proxy() -> AsyncIterator[MongoProxy]:
    made = MongoProxy(*mongo_server.address())
    await made.start()
    yield made
    await made.stop()


def named(pairs: list[tuple[str, str]]) -> dict[int, Any]:
    return {Property.USER_PROPERTY: pairs} if pairs else {}


async def _acks(client: Client, count: int) -> list[int]:
    """The reason codes of so many PUBACKs, among what else comes."""
    reasons: list[int] = []
    while len(reasons) < count:
        if isinstance(packet := await client.receive(), PubAck):
            reasons.append(packet.reason)
    return reasons


async def test_what_is_published_meanwhile_is_held_and_decided_later(sites: Sites, tmp_path: Path, proxy: MongoProxy) -> None:
    """Mentions of who may be a member, values for which there may be room, edits, reactions, attachments. Over HTTP it is
    202 or 503, as of any message, and nothing is told of a quota."""
    database = mongo_server.new_database()
    url = mongo_server.url(database, "tideline_lease_ms=20000&serverSelectionTimeoutMS=200", through=proxy.port)
    plugins: dict[str, Any] = {
        "conversations": {},
        "recall": {},
        "attachments": {"directory": str(tmp_path / "attachments"), "shared": True},
        "http": {**HTTP["http"], "storage_timeout": 0.5},
    }
    async with sites(url, plugins, errors=True) as talk:
        alice = talk.caller("alice")
        topic = await group(alice, "u/bob")

        async def history() -> list[dict[str, Any]]:
            page = await alice.get(f"/conversations/{topic}/messages", params={"order": "oldest"})
            return cast(list[dict[str, Any]], page.json()["messages"])

        phone = await talk.device("alice", "phone", 5)
        await say(alice, topic, "one")  # 202, without an id, where the machine is busy
        first = (await until(history))[0]["id"]
        assert (await alice.put("/me/values/theme", json={"value": "dark"})).is_success
        values = (await alice.get("/me/values")).json()["topic"]
        attached = (await whole(alice, topic, b"bytes")).rpartition("/")[2]
        said: list[tuple[str, bytes, list[tuple[str, str]]]] = [
            (topic, b"hello", [("mentions", "nobody")]),
            (values, json.dumps({"key": "draft", "value": 1}).encode(), []),
            (topic, b"two", [("tideline-edits", first)]),
            (topic, b"+1", [("tideline-reacts", first)]),
            (topic, b"look", [("attachment", attached)]),
        ]
        proxy.pass_on = lambda command: command != Command("find", "rows")  # what plugins look into
        phone.send(*(Publish(to, text, 1, False, False, phone.new_id(), named(pairs)) for to, text, pairs in said))
        acks = asyncio.create_task(_acks(phone, len(said)))
        told = await alice.put("/me/values/more", json={"value": 2})
        assert told.status_code in (202, 503), told.text
        await until(lambda: talk.server.commits.unavailable_since is not None)
        assert not acks.done()
        proxy.pass_on = lambda command: True
        assert set(await acks) <= {0, NO_SUBSCRIBERS}
        page = await history()
        assert (page[0]["payload"], page[0]["reactions"], len(page)) == ("two", {"+1": 1}, 5)
        assert (await talk.caller("bob").get(f"/attachments/{attached}")).content == b"bytes"

        async def kept() -> bool:
            return bool((await alice.get("/me/values")).json()["values"].get("draft") == 1)

        await until(kept)
        await phone.drop()
    await mongo_server.drop(database)


async def test_a_device_that_comes_meanwhile_follows_later(
    sites: Sites, proxy: MongoProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without another CONNECT, and also where it has gone by then."""
    monkeypatch.setattr(plugin_module, "_AGAIN", 0.05)
    database = mongo_server.new_database()
    url = mongo_server.url(database, "tideline_lease_ms=20000&serverSelectionTimeoutMS=200", through=proxy.port)
    async with sites(url, {"conversations": {}}, errors=True) as talk:
        bob = talk.caller("bob")
        topic = await group(talk.caller("alice"), "u/bob")
        proxy.pass_on = lambda command: command != Command("find", "rows")
        phone = await talk.device("bob", "phone")
        gone = await talk.device("bob", "gone")
        await gone.drop()
        waits = ["client 'phone': its conversations wait for storage", "client 'gone': its conversations wait for storage"]
        await until(lambda: all(line in caplog.text for line in waits))
        proxy.pass_on = lambda command: True
        await follows(bob, "phone", topic)
        await follows(bob, "gone", topic)
        await phone.drop()
    await mongo_server.drop(database)
