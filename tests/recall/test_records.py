"""What other plugins keep of a user, or of a conversation, goes with an erasure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

import plugins.recall.erasures as erasures_module
from broker.ledger import READ, TABLE
from plugins.conversations.model import ABOUT, MEMBERS, MENTIONS, MINE, VALUES, WORK
from plugins.presence.record import DEVICES
from plugins.presence.record import OF as OF_RUN
from plugins.recall import RecallPlugin
from plugins.schedules.entry import DUE, OF
from tests.conversations.conftest import ALICE, BOB, group, say
from tests.http.conftest import Site, passwords, site, sites
from tests.recall.test_erasure import erased
from tests.support.until import until

__all__ = ["passwords", "sites"]

Sites = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures_module, "_LOOK", 0.05)


async def rows(broker: Site, *tables: str) -> list[Any]:
    """All rows of the tables."""
    storage = broker.server.storage
    found: list[Any] = []
    for table in tables:
        async for parts in storage.parts(table):
            for part in parts:
                found += await storage.rows(table, part)
    return found


def naming(user: str, found: list[Any]) -> list[Any]:
    return [row for row in found if row.part == user or user in row.key or user.encode() in row.value]


async def test_memberships_mentions_and_values_of_a_user(sites: Sites) -> None:
    """Also those of the last owner. Another user keeps its own; one of that name who comes later begins anew."""
    async with sites(plugins={"conversations": {}, "recall": {}}) as talk:
        alice, bob, operator = talk.caller("alice"), talk.caller("bob"), erasing(talk)
        topic = await group(bob, ALICE)
        await say(alice, topic, "hello", mentions=[BOB])
        for caller in (alice, bob):
            assert (await caller.put("/me/values/draft", json={"value": "unsent"})).status_code == 200
        assert all([naming(BOB, await rows(talk, table)) for table in (MEMBERS, MENTIONS, VALUES)])
        done = await operator(user=BOB)
        assert done["failed"] == 0
        left = await rows(talk, MEMBERS, MINE, MENTIONS, VALUES, WORK)
        assert [row for row in left if row.part == BOB or BOB in row.key] == []
        assert not any(b"unsent" in row.value for row in left if row.part != ALICE)
        (about,) = await rows(talk, ABOUT)
        assert b'"owners": []' in about.value
        assert [row.part for row in await rows(talk, VALUES)] == [ALICE]
        assert [row.key for row in await rows(talk, MEMBERS)] == [ALICE]
        await bob.put("/me/values/draft", json={"value": "again"})
        assert [row.part for row in await rows(talk, MINE) if row.part == BOB] == [BOB], "its devices follow again"


async def test_members_and_name_of_a_conversation(sites: Sites) -> None:
    async with sites(plugins={"conversations": {}, "recall": {}}) as talk:
        bob = talk.caller("bob")
        topic = await group(bob, ALICE)
        kept = await group(bob, ALICE)
        done = await erasing(talk)(conversation=topic)
        assert done["failed"] == 0
        assert {row.part for row in await rows(talk, ABOUT, MEMBERS)} == {kept}
        assert {row.key for row in await rows(talk, MINE)} == {kept}


async def test_what_waits_for_a_user_or_for_a_conversation_is_never_published() -> None:
    async with site(plugins={"schedules": {}, "recall": {}}) as made:
        caller = made.caller()
        for user, topic in (("c/ann", "chat/a"), ("c/bob", "chat/a"), ("c/bob", "chat/b"), ("c/ann", "chat/b")):
            for wanted in ({"delay": 3600}, {"schedule": "1h"}):
                body = {"topic": topic, "payload": f"of {user}", **wanted}
                answer = await caller.post("/schedules", json=body, params={"user": user})
                assert answer.status_code in (200, 201), answer.text
        await erased(made, user="c/ann")
        assert naming("c/ann", await rows(made, DUE, OF)) == []
        assert len(await rows(made, DUE)) == 4
        await erased(made, conversation="chat/a")
        assert [b"chat/b" in row.value for row in await rows(made, DUE)] == [True, True]


async def test_the_bytes_of_who_published_nothing_leave_the_files(tmp_path: Path) -> None:
    """No message is recalled, with which they would."""
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={"schedules": {}, "recall": {}}) as made:
        body = {"topic": "chat/a", "payload": "unsaid secret", "delay": 3600}
        assert (await made.caller().post("/schedules", json=body, params={"user": "c/ann"})).status_code == 201

        def found() -> list[str]:
            return [file.name for file in tmp_path.glob("t.db*") if b"unsaid secret" in file.read_bytes()]

        assert found()
        await erased(made, user="c/ann")
        await until(lambda: not found(), lambda: f"in {found()}")


async def test_who_was_online_when() -> None:
    """The rows, and what is retained; also of a device that is connected as the erasure begins."""
    async with site(plugins={"presence": {"grace": 0}, "recall": {}}) as made:
        await made.durable("ann", 5)
        await made.durable("bob", 5)

        async def told() -> Any:
            return len(await made.server.storage.retained_range("$presence/", "", 10)) == 2

        await until(told)
        await erased(made, user="c/ann")

        async def gone() -> Any:
            kept = await made.server.storage.retained_range("$presence/", "", 10)
            return [message.topic for message in kept] == ["$presence/c/bob"]

        await until(gone)
        assert naming("c/ann", await rows(made, DEVICES, OF_RUN)) == []
        assert [row.part for row in await rows(made, DEVICES)] == ["c/bob"]


async def test_when_devices_were_given_what_they_have() -> None:
    async with site(plugins={"receipts": {"resolution_seconds": 0.05}, "recall": {}}) as made:
        for name in ("ann", "bob"):
            client = await made.durable(name, 5)
            await client.subscribe("chat/#", options=1)
            await made.caller().post("/messages", json={"topic": "chat/a", "payload": "x"}, params={"user": "c/eve"})
            await client.message()

        async def kept() -> Any:
            return {row.part for row in await rows(made, TABLE)} >= {"c/ann", "c/bob"}

        await until(kept)
        await erased(made, user="c/ann")
        assert naming("c/ann", await rows(made, TABLE, READ)) == []
        assert naming("c/bob", await rows(made, TABLE))


def erasing(talk: Site) -> Any:
    """Asks as the broker's operator, where there are users."""

    async def ask(**what: str) -> Any:
        ((kind, name),) = what.items()
        plugin = talk.server.api.plugin(RecallPlugin)
        assert plugin is not None
        await plugin.erasures.begin(kind, name)

        async def done() -> Any:
            state = await plugin.erasures.one(kind, name)
            return state["state"] == "done" and state

        return await until(done)

    return ask
