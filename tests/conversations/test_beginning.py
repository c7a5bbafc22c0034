"""Where a conversation shows what comes from the joining on, no way leads to what came before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.packets import ReasonCode
from plugins.conversations import ConversationsPlugin
from plugins.recall import RecallPlugin
from plugins.timelines import Who
from tests.conversations.conftest import ALICE, BOB, EVE, FAN_OUT, follows, group, say, told
from tests.conversations.test_cluster import PLUGINS, conversations
from tests.http.conftest import Site
from tests.support.cluster import cluster
from tests.support.until import until


@pytest.fixture
async def joining(sites: Callable[..., AbstractAsyncContextManager[Site]], url: str) -> AsyncIterator[Site]:
    async with sites(url, plugins={"conversations": {}, "receipts": {}}) as made:
        yield made


async def retained(caller: httpx.AsyncClient, filter_: str) -> list[str]:
    answer = await caller.get("/retained", params={"filter": filter_})
    assert answer.status_code == 200, answer.text
    return [message["payload"] for message in answer.json()["messages"]]


async def test_the_retained_message_from_before_the_joining_is_not_for_who_joined(joining: Site) -> None:
    alice, bob, eve = (joining.caller(name) for name in ("alice", "bob", "eve"))
    topic = await group(alice, BOB, history="joining")
    connected = await joining.device("eve", "phone", 5)
    assert await connected.subscribe("conv/open", "#", options=1) == [0x87, 1]
    await say(alice, "open/board", "for all", retain=True)
    assert (await connected.message()).payload == b"for all"
    await say(alice, topic, "before", retain=True)
    assert (await alice.put(f"/conversations/{topic}/members/{EVE}", json={})).status_code == 200
    clean = await joining.client("browser", username="eve", password=b"eve-password")
    new = await joining.device("eve", "watch", 5)
    await follows(eve, "watch", topic)
    for device in (clean, new):
        for filter_ in (topic, f"{topic}/#", "#"):
            await device.subscribe(filter_, options=1)
    for device in (clean, new):
        assert (await device.message()).payload == b"for all"
    for device in (connected, clean, new):
        await device.quiet()
    for filter_ in (topic, "#", "conv/#"):
        assert await retained(eve, filter_) == ["for all"] * (filter_ == "#")
        assert "before" in await retained(bob, filter_)
    assert (await eve.delete(f"/retained/{topic}")).status_code == 404
    await say(alice, topic, "after", retain=True)
    for device in (connected, clean, new):
        assert (await device.message()).payload == b"after"
    assert await retained(eve, topic) == ["after"]
    late = await joining.device("eve", "late", 5)
    assert (await late.message()).payload == b"after"


async def test_an_inbox_shows_nothing_from_before_the_joining(joining: Site) -> None:
    """The device followed everything before, so that what it may not receive is in its inbox."""
    alice, eve = joining.caller("alice"), joining.caller("eve")
    ear = await joining.device("eve", "ear", 5)
    topic = await group(alice, BOB, history="joining")
    await say(alice, topic, "retained", retain=True)
    assert await ear.subscribe("#", options=1) == [1]
    await say(alice, topic, "before")
    assert (await alice.put(f"/conversations/{topic}/members/{EVE}", json={})).status_code == 200
    await say(alice, topic, "after")
    assert (await ear.message()).payload == b"after"
    page = await eve.get("/sync", params={"device": "ear", "after": 0, "takeover": True})
    assert page.status_code == 200, page.text
    assert [entry["message"]["payload"] for entry in page.json()["entries"]] == ["after"]
    assert (await eve.put("/devices/ear/offset", json={"offset": 0})).status_code == 200
    again = await joining.device("eve", "ear", 5)
    assert (await again.message()).payload == b"after"
    await again.quiet()
    entries = (await eve.get("/inbox")).json()["entries"]
    assert [(entry["topic"], entry["seq"]) for entry in entries if entry["topic"]] == [(topic, 3)]


@pytest.mark.parametrize(("filter_", "copies"), [("#", 1), ("$share/readers/#", 2)])
async def test_nor_is_what_waited_for_a_device_given_to_it_once_its_user_has_joined(
    sites: Callable[..., AbstractAsyncContextManager[Site]], url: str, filter_: str, copies: int
) -> None:
    """Of a group, and of a channel, which all read from one inbox."""
    plugins = {"conversations": {}, "persistence": {"url": url, "policies": FAN_OUT}}
    async with sites(url, plugins=plugins) as made:
        alice, eve = made.caller("alice"), made.caller("eve")
        topics = [
            await group(alice, history="joining"),
            (await alice.post("/conversations", json={"kind": "channel", "history": "joining"})).json()["topic"],
        ]
        ear = await made.device("eve", "ear", 5)
        assert await ear.subscribe(filter_, options=1) == [1]
        await made.lose(ear, "ear")
        for topic in topics:
            await say(alice, topic, "before")
            assert (await alice.put(f"/conversations/{topic}/members/{EVE}", json={})).status_code == 200
            await say(alice, topic, "after")
        ear = await made.device("eve", "ear", 5)
        expected = [(topic, b"after") for topic in topics] * copies
        assert sorted([(m.topic, m.payload) for m in [await ear.message() for _ in expected]]) == sorted(expected)
        await ear.quiet()
        assert await told(eve, topics[0]) == ["after"]


async def test_no_counts_tell_of_a_message_from_before_the_joining(joining: Site) -> None:
    alice, bob, eve = (joining.caller(name) for name in ("alice", "bob", "eve"))
    topic = await group(alice, BOB, history="joining")
    before = (await say(alice, topic, "before")).json()["id"]
    assert (await alice.put(f"/conversations/{topic}/members/{EVE}", json={})).status_code == 200
    after = (await say(alice, topic, "after")).json()["id"]
    for caller, message, status in ((bob, before, 200), (eve, before, 404), (eve, after, 200)):
        assert (await caller.get(f"/messages/{message}/counts")).status_code == status
    assert (await eve.get(f"/messages/{before}/ledger")).status_code == 404
    assert (await eve.get(f"/messages/{after}/ledger")).status_code == 403
    phone = await joining.device("eve", "phone", 5)
    await phone.subscribe("$sync/reply/phone")
    for message, refused in ((before, True), (after, False)):
        await phone.publish("$sync/request", json.dumps({"op": "counts", "message": message}).encode(), 1)
        answer: dict[str, Any] = json.loads((await phone.message()).payload)
        assert ("error" in answer) == refused, answer


async def test_nor_on_another_node_of_a_cluster() -> None:
    async with cluster(2, plugins=PLUGINS) as made:
        one, other = made.nodes
        ann, bob = await one.client("ann", 5), await other.durable("bob", 5)
        topic = (await conversations(one).create(Who("c/ann"), "group", history="joining"))["topic"]
        assert await ann.publish(topic, b"before", qos=1, retain=True) == 0
        assert (await ann.message()).payload == b"before"
        assert await ann.publish("open/board", b"for all", qos=1, retain=True) == ReasonCode.NO_MATCHING_SUBSCRIBERS
        await conversations(one).put(Who("c/ann"), topic, "c/bob")
        await bob.subscribe(topic, "#", options=1)
        assert (await bob.message()).payload == b"for all"
        await bob.quiet()
        assert await ann.publish(topic, b"after", qos=1, retain=True) == 0
        assert (await bob.message()).payload == b"after"


async def test_a_conversation_that_was_erased_is_begun_again_behind_what_there_was(
    sites: Callable[..., AbstractAsyncContextManager[Site]], url: str
) -> None:
    async with sites(url, plugins={"conversations": {}, "receipts": {}, "recall": {}}) as made:
        alice, bob, eve = (made.caller(name) for name in ("alice", "bob", "eve"))
        topic = await group(alice, BOB, topic="conv/hr")
        old = (await say(alice, topic, "secret")).json()["id"]
        direct = (await alice.post("/conversations", json={"kind": "direct", "members": [BOB]})).json()["topic"]
        await say(bob, direct, "also secret")
        for conversation in (topic, direct):
            await erased_by_operator(made, conversation)
        assert await group(eve, BOB, topic="conv/hr") == topic
        assert (await bob.post("/conversations", json={"kind": "direct", "members": [ALICE]})).json()["topic"] == direct
        new = (await say(eve, topic, "new")).json()["id"]
        await say(alice, direct, "hello again")
        await eve.put(f"/conversations/{topic}/members/u/alice", json={})
        for caller in (alice, bob, eve):
            assert await told(caller, topic) == ["new"]
            assert (await caller.get(f"/messages/{old}")).status_code == 404
            assert (await caller.get(f"/messages/{new}")).status_code == 200
            (mine,) = [one for one in (await caller.get("/me/conversations")).json()["conversations"] if one["topic"] == topic]
            assert mine["total"] == 1
        assert await told(alice, direct) == await told(bob, direct) == ["hello again"]
        assert (await eve.get(f"/messages/{old}/counts")).status_code == 404


async def test_who_begins_again_what_all_have_left_sees_nothing_of_it(talk: Site) -> None:
    """Also who had begun it: others talked there once it had left."""
    alice, bob = talk.caller("alice"), talk.caller("bob")
    topic = await group(alice, BOB, topic="conv/left")
    assert (await alice.put(f"/conversations/{topic}/members/{BOB}", json={"role": "owner"})).status_code == 200
    assert (await alice.delete(f"/conversations/{topic}/members/{ALICE}")).status_code == 204
    await say(bob, topic, "without her")
    assert (await bob.delete(f"/conversations/{topic}/members/{BOB}")).status_code == 204
    assert await group(alice, topic="conv/left") == topic
    await say(alice, topic, "alone")
    assert await told(alice, topic) == ["alone"]


async def test_the_operator_makes_a_conversation_of_what_a_topic_has(
    sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with sites(url) as made:
        await say(made.caller("alice"), "conv/old", "before")
    async with sites(url, plugins={"conversations": {}}) as made:
        plugin = made.server.api.plugin(ConversationsPlugin)
        assert plugin is not None
        await plugin.service.create(Who(ALICE, operator=True), "group", topic="conv/old", members=[BOB])
        assert await told(made.caller("bob"), "conv/old") == ["before"]


async def erased_by_operator(made: Site, conversation: str) -> None:
    """Ask for it, and wait until it is done."""
    plugin = made.server.api.plugin(RecallPlugin)
    assert plugin is not None
    await plugin.erasures.begin("conversation", conversation)

    async def done() -> bool:
        return bool((await plugin.erasures.one("conversation", conversation))["state"] == "done")

    await until(done, f"{conversation} is erased")
