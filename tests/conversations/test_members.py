"""Who is a member gets a conversation on all devices, without subscribing; for everybody else it does not exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from broker.packets import ReasonCode
from plugins.receipts import ReceiptsPlugin
from plugins.schedules import SchedulesPlugin
from storage.records import Operation, PutRow, Row
from tests.attachments.parts import published, url_of, whole
from tests.conversations.conftest import ALICE, BOB, EVE, FAN_OUT, follows, group, say, told
from tests.http.conftest import Site
from tests.support.clocks import Clocks
from tests.support.until import until


async def test_members_get_it_on_all_devices_without_subscribing(talk: Site) -> None:
    alice, bob = talk.caller("alice"), talk.caller("bob")
    connected = await talk.device("bob", "phone")
    away = await talk.device("bob", "pad", 5)
    await away.drop()
    clean = await talk.client("browser", username="bob", password=b"bob-password")
    topic = await group(alice, BOB, name="lunch")
    assert (await say(alice, topic, "one")).status_code == 201
    for device in (connected, clean, await talk.device("bob", "pad", 5)):
        message = await device.message()
        assert (message.topic, message.payload) == (topic, b"one")
    new = await talk.device("bob", "watch")
    await follows(bob, "watch", topic)
    assert (await say(bob, topic, "two")).status_code == 201
    for device in (connected, clean, new):
        assert (await device.message()).payload == b"two"
    assert await told(bob, topic) == ["one", "two"]


async def test_for_others_it_does_not_exist(talk: Site) -> None:
    alice, eve = talk.caller("alice"), talk.caller("eve")
    topic = await group(alice, BOB)
    none = f"{topic}x"
    listener = await talk.device("eve", "ear", 5)
    assert await listener.subscribe("#", options=1) == [1]
    await say(alice, topic, "secret")
    await listener.quiet()
    for path in (topic, none):
        assert await listener.subscribe(path) == [ReasonCode.NOT_AUTHORIZED]
        assert await listener.publish(path, b"x", qos=1) == ReasonCode.NOT_AUTHORIZED
        assert await told(eve, path) == 404
        assert (await say(eve, path, "x")).status_code == 403
        for method, name, body in (
            ("GET", "about", None),
            ("GET", "members", None),
            ("PATCH", "about", {"name": "mine"}),
            ("PUT", f"members/{EVE}", {}),
            ("DELETE", f"members/{EVE}", None),
            ("POST", "join", {}),
            ("PUT", "mute", {"muted": True}),
        ):
            answer = await eve.request(method, f"/conversations/{path}/{name}", json=body)
            assert (answer.status_code, answer.json()["detail"].replace(path, "")) == (
                404,
                "conversation '': there is none, or you are not a member",
            ), name
    assert await listener.subscribe("conv/#", options=1) == [ReasonCode.NOT_AUTHORIZED]
    assert await told(talk.caller("bob"), topic) == ["secret"]


async def test_who_is_no_member_does_not_type_there_neither_now_nor_later(
    sites: Callable[..., AbstractAsyncContextManager[Site]],
) -> None:
    """Asked when it is published, and again when it is due."""
    clocks = Clocks()
    async with sites(plugins={"conversations": {}, "presence": {}, "schedules": {}}, time=clocks.time) as made:
        plugin = made.server.api.plugin(SchedulesPlugin)
        assert plugin is not None
        alice = made.caller("alice")
        topic = await group(alice, BOB)
        typing = f"$typing/{topic}"
        tablet, phone = await made.device("alice", "tablet", 5), await made.device("bob", "phone", 5)
        ear = await made.device("eve", "ear", 5)
        assert await phone.subscribe(typing) == [0]
        for name in (
            typing,
            f"$delayed/0/{typing}",
            f"$delayed/60/{typing}",
            f"$typing/{typing}",
            f"$typing/$delayed/0/{topic}",
        ):
            assert await ear.publish(name, b"eve", qos=1) == ReasonCode.NOT_AUTHORIZED, name
            assert await ear.subscribe(name) == [ReasonCode.NOT_AUTHORIZED], name
        assert (await alice.put(f"/conversations/{topic}/members/{EVE}", json={})).status_code == 200
        assert await ear.publish(f"$delayed/60/{typing}", b"eve", qos=1) == 0
        assert (await alice.delete(f"/conversations/{topic}/members/{EVE}")).status_code == 204
        assert await tablet.publish(f"$delayed/60/{typing}", b"alice", qos=1) == 0
        clocks.pass_by(60)
        assert (await phone.message()).payload == b"alice"
        await until(lambda: plugin.service.runner.denied == 1, "what she sent as a member was due")
        await phone.quiet()


async def test_who_is_removed_gets_nothing_more_and_who_leaves_too(talk: Site) -> None:
    alice, bob = talk.caller("alice"), talk.caller("bob")
    phone, ear = await talk.device("bob", "phone", 5), await talk.device("eve", "ear", 5)
    assert await ear.subscribe("#", options=1) == [1]
    topic = await group(alice, BOB, EVE)
    await say(alice, topic, "one")
    assert (await phone.message()).payload == (await ear.message()).payload == b"one"
    assert (await alice.delete(f"/conversations/{topic}/members/{EVE}")).status_code == 204
    assert (await bob.delete(f"/conversations/{topic}/members/{BOB}")).status_code == 204
    await say(alice, topic, "two")
    await phone.quiet()
    await ear.quiet()
    assert await phone.publish(topic, b"still here", qos=1) == ReasonCode.NOT_AUTHORIZED
    assert await told(bob, topic) == 404
    members = (await alice.get(f"/conversations/{topic}/members")).json()["members"]
    assert [(member["user"], member["role"]) for member in members] == [(ALICE, "owner")]
    assert (await bob.get("/me/conversations")).json()["conversations"] == []
    assert (await alice.put(f"/conversations/{topic}/members/{BOB}", json={})).status_code == 200
    await say(alice, topic, "three")
    assert (await phone.message()).payload == b"three"
    await ear.quiet()


async def test_what_who_is_removed_has_sent_is_not_there_for_it_any_more(
    sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path
) -> None:
    """The ledger, counts and attachments of what it sent itself. Nor is it with a new membership that begins later."""
    async with sites(url_of(tmp_path), plugins={"conversations": {}, "receipts": {}, "attachments": {}}) as talk:
        alice, bob = talk.caller("alice"), talk.caller("bob")
        topic = await group(alice, BOB, history="joining")
        path = await whole(bob, topic, b"picture")
        message = (await published(bob, topic, path)).json()["id"]
        waiting = await whole(bob, topic, b"nobody has it yet")

        async def seen() -> list[int]:
            ways = (f"/messages/{message}", f"/messages/{message}/ledger", f"/messages/{message}/counts", path, f"{path}/about")
            return [(await bob.get(way)).status_code for way in ways]

        async def listed() -> list[str]:
            return [f"/attachments/{one['id']}" for one in (await bob.get("/attachments")).json()["attachments"]]

        assert await seen() == [200] * 5
        assert sorted(await listed()) == sorted((path, waiting))
        assert (await alice.delete(f"/conversations/{topic}/members/{BOB}")).status_code == 204
        assert await seen() == [404] * 5
        assert await listed() == [waiting]
        assert (await alice.get(path)).content == b"picture"
        assert (await alice.put(f"/conversations/{topic}/members/{BOB}", json={})).status_code == 200
        assert await seen() == [404] * 5


async def test_who_is_removed_hears_no_more_who_has_read_what_it_sent(
    sites: Callable[..., AbstractAsyncContextManager[Site]],
) -> None:
    async with sites(plugins={"conversations": {}, "receipts": {}}) as talk:
        plugin = talk.server.api.plugin(ReceiptsPlugin)
        assert plugin is not None
        alice, bob = talk.caller("alice"), talk.caller("bob")
        tablet, phone = await talk.device("alice", "tablet", 5), await talk.device("bob", "phone", 5)
        topic = await group(alice, BOB)
        assert await phone.subscribe("$sync/receipts/phone") == [0]
        sent = await say(bob, topic, "seen?", properties=[["tideline-receipt", "read"]])
        assert (sent.status_code, (await tablet.message()).payload) == (201, b"seen?")
        told_of = [(await phone.message(finish=False)).topic for _ in range(2)]
        assert sorted(told_of) == sorted(("$sync/receipts/phone", topic))
        assert (await alice.delete(f"/conversations/{topic}/members/{BOB}")).status_code == 204
        assert (await alice.put(f"/conversations/{topic}/position", json={"position": 1})).status_code == 200
        await until(lambda: not len(plugin._tracker), "nothing more is to be told")
        await phone.quiet()


async def test_roles_say_who_may_do_what(talk: Site) -> None:
    alice, bob, eve = (talk.caller(name) for name in ("alice", "bob", "eve"))
    topic = await group(alice, BOB, EVE)

    async def role(caller: object, user: str, wanted: str) -> int:
        answer = await caller.put(f"/conversations/{topic}/members/{user}", json={"role": wanted})  # type: ignore[attr-defined]
        return int(answer.status_code)

    assert await role(bob, EVE, "read-only") == 403
    assert await role(alice, BOB, "admin") == 200
    assert await role(bob, EVE, "read-only") == 200
    assert (await say(eve, topic, "may I?")).status_code == 403
    assert await told(eve, topic) == []
    assert await role(bob, EVE, "admin") == await role(bob, ALICE, "member") == await role(bob, BOB, "owner") == 403
    assert (await bob.delete(f"/conversations/{topic}/members/{ALICE}")).status_code == 403
    assert (await bob.patch(f"/conversations/{topic}/about", json={"name": "ours"})).json()["name"] == "ours"
    assert (await eve.patch(f"/conversations/{topic}/about", json={"name": "mine"})).status_code == 403
    alone = await alice.delete(f"/conversations/{topic}/members/{ALICE}")
    assert (alone.status_code, alone.json()["detail"]) == (
        409,
        "the last owner stays: make somebody else an owner first",
    )
    assert await role(alice, ALICE, "member") == 409
    assert await role(alice, EVE, "owner") == 200
    assert await role(alice, ALICE, "member") == 200
    about = (await bob.get(f"/conversations/{topic}/about")).json()
    assert about["owners"] == [EVE]
    assert (await say(eve, topic, "thanks")).status_code == 201
    assert await role(alice, BOB, "bishop") == 422


async def test_who_is_invited_sees_nothing_before_it_joins(talk: Site) -> None:
    alice, bob = talk.caller("alice"), talk.caller("bob")
    phone = await talk.device("bob", "phone")
    topic = await group(alice)
    invited = await alice.put(f"/conversations/{topic}/members/{BOB}", json={"invite": True})
    assert invited.json()["invited"] is True
    await say(alice, topic, "one")
    await phone.quiet()
    assert await told(bob, topic) == 404
    assert (await say(bob, topic, "x")).status_code == (await bob.get(f"/conversations/{topic}/members")).status_code == 403
    (mine,) = (await bob.get("/me/conversations")).json()["conversations"]
    assert (mine["invited"], mine["last_message"], mine["total"]) == (True, None, 0)
    assert (await bob.post(f"/conversations/{topic}/join", json={})).json()["mine"]["invited"] is False
    await say(alice, topic, "two")
    assert (await phone.message()).payload == b"two"
    assert await told(bob, topic) == ["one", "two"]


async def test_a_new_member_sees_the_history_from_its_joining_on_where_the_conversation_says_so(talk: Site) -> None:
    alice, bob, eve = (talk.caller(name) for name in ("alice", "bob", "eve"))
    topic = await group(alice, BOB, history="joining")
    first = (await say(alice, topic, "before")).json()["id"]
    await alice.put(f"/conversations/{topic}/members/{EVE}", json={})
    await say(alice, topic, "after")
    assert await told(bob, topic) == ["before", "after"]
    assert await told(eve, topic) == ["after"]
    assert (await eve.get(f"/messages/{first}")).status_code == 404
    assert (await bob.get(f"/messages/{first}")).status_code == 200
    (mine,) = (await eve.get("/me/conversations")).json()["conversations"]
    assert (mine["total"], mine["unread"], mine["last_message"]["payload"]) == (1, 1, "after")
    position = (await eve.get(f"/conversations/{topic}/position")).json()
    assert (position["unread"], position["last"]) == (1, 2)
    assert (await alice.patch(f"/conversations/{topic}/about", json={"history": "start"})).status_code == 200
    await alice.delete(f"/conversations/{topic}/members/{EVE}")
    await alice.put(f"/conversations/{topic}/members/{EVE}", json={})
    assert await told(eve, topic) == ["before", "after"]


async def test_two_users_have_one_conversation_whoever_begins_it(talk: Site) -> None:
    alice, bob, eve = (talk.caller(name) for name in ("alice", "bob", "eve"))
    made = await alice.post("/conversations", json={"kind": "direct", "members": [BOB]})
    again = await bob.post("/conversations", json={"kind": "direct", "members": [ALICE]})
    assert made.json()["topic"] == again.json()["topic"]
    topic = made.json()["topic"]
    assert (await say(bob, topic, "hi")).status_code == 201
    assert await told(alice, topic) == ["hi"]
    assert await told(eve, topic) == 404
    assert (await alice.put(f"/conversations/{topic}/members/{EVE}", json={})).status_code == 403
    assert (await alice.post("/conversations", json={"kind": "direct", "members": []})).status_code == 422
    assert (await alice.post("/conversations", json={"kind": "direct", "members": [ALICE]})).status_code == 422


async def test_a_channel_has_few_writers_and_one_entry_for_all_its_readers(
    sites: Callable[..., AbstractAsyncContextManager[Site]], url: str
) -> None:
    async with sites(url, plugins={"conversations": {}}) as without:
        refused = await without.caller("alice").post("/conversations", json={"kind": "channel"})
        assert (refused.status_code, "fanout: read" in refused.text) == (422, True)
    async with sites(url, plugins={"conversations": {}, "persistence": {"url": url, "policies": FAN_OUT}}) as made:
        alice, bob = made.caller("alice"), made.caller("bob")
        phone = await made.device("bob", "phone")
        channel = (await alice.post("/conversations", json={"kind": "channel", "name": "news", "members": [BOB]})).json()[
            "topic"
        ]
        assert (await say(alice, channel, "extra")).status_code == 201
        message = await phone.message()
        assert (message.topic, message.payload) == (channel, b"extra")
        assert await made.server.storage.inbox_bounds(BOB) == (1, 0), "it is in the channel's inbox"
        assert (await say(bob, channel, "letter")).status_code == 403
        await alice.delete(f"/conversations/{channel}/members/{BOB}")
        await say(alice, channel, "more")
        await phone.quiet()


async def test_what_cannot_be_is_refused_by_its_value_and_limits_hold(
    sites: Callable[..., AbstractAsyncContextManager[Site]],
) -> None:
    async with sites(plugins={"conversations": {"max_members": 3, "max_conversations": 2}}) as made:
        alice = made.caller("alice")
        topic = await group(alice, BOB, topic="conv/lunch")
        assert topic == "conv/lunch"
        for body, word in (
            ({"kind": "party"}, "direct"),
            ({"kind": "group", "topic": "chat/a"}, "conv/"),
            ({"kind": "group", "topic": "conv/#"}, "#"),
            ({"kind": "group", "topic": "conv/channel/x"}, "channel"),
            ({"kind": "group", "name": "x" * 201}, "200"),
            ({"kind": "group", "name": "\x1b[31mred"}, "no control characters"),
            ({"kind": "direct", "topic": "conv/mine", "members": [BOB]}, "leave it out"),
            ({"kind": "channel", "topic": "conv/mine"}, "leave it out"),
            ({"kind": "group", "members": ["bob"]}, "u/<user name>"),
            ({"kind": "group", "history": "never"}, "joining"),
            ({"kind": "group", "members": [BOB] * 101}, "100"),
        ):
            refused = await alice.post("/conversations", json=body)
            assert (refused.status_code, word in refused.text) == (422, True), refused.text
        taken = await alice.post("/conversations", json={"kind": "group", "topic": "conv/lunch"})
        assert (taken.status_code, taken.json()["status"]) == (409, 409)
        assert (await alice.put(f"/conversations/{topic}/members/{EVE}", json={})).status_code == 200
        full = await alice.put(f"/conversations/{topic}/members/u/dan", json={})
        assert (full.status_code, "3 members" in full.text) == (422, True)
        await group(alice)
        many = await alice.post("/conversations", json={"kind": "group"})
        assert (many.status_code, "2 conversations" in many.text) == (422, True)
        bob = made.caller("bob")
        for body, word in (
            ({"kind": "group", "topic": "conv/half", "members": [EVE, ALICE]}, "u/alice is in 2 conversations"),
            ({"kind": "group", "topic": "conv/half", "members": [EVE, "u/dan", "u/fay"]}, "4 members with you"),
            ({"kind": "direct", "members": [ALICE]}, "u/alice is in 2 conversations"),
        ):
            refused = await bob.post("/conversations", json=body)
            assert (refused.status_code, word in refused.text) == (422, True), refused.text
        mine = (await bob.get("/me/conversations")).json()["conversations"]
        assert [one["topic"] for one in mine] == ["conv/lunch"], "of what cannot be made whole nothing is made"
        assert (await group(bob, topic="conv/half")) == "conv/half"


async def test_conversations_do_not_count_among_the_subscriptions_of_a_device(
    sites: Callable[..., AbstractAsyncContextManager[Site]],
) -> None:
    async with sites(plugins={"conversations": {}}, mqtt={"max_subscriptions": 2}) as made:
        alice, bob = made.caller("alice"), made.caller("bob")
        phone = await made.device("bob", "phone", 5)
        assert await phone.subscribe("a") == [0]
        topics = [await group(alice, BOB) for _ in range(4)]
        watch = await made.device("bob", "watch", 5)
        for topic in topics:
            await follows(bob, "watch", topic)
            await say(alice, topic, topic)
            assert (await phone.message()).topic == (await watch.message()).topic == topic
        assert await phone.subscribe("b", "c", topics[0], options=1) == [1, ReasonCode.QUOTA_EXCEEDED, 1]
        assert await watch.subscribe("a", "b", "c", options=1) == [1, 1, ReasonCode.QUOTA_EXCEEDED]


async def test_an_access_rule_holds_beside_the_members_list(sites: Callable[..., AbstractAsyncContextManager[Site]]) -> None:
    rules = [{"allow": "all", "topics": "#"}, {"deny": "publish", "topics": "conv/#", "users": "bob"}]
    async with sites(plugins={"conversations": {}, "acl": {"rules": rules}}) as made:
        alice, bob = made.caller("alice"), made.caller("bob")
        topic = await group(alice, BOB)
        assert (await say(alice, topic, "one")).status_code == 201
        assert (await say(bob, topic, "two")).status_code == 403
        assert await told(bob, topic) == ["one"]
        assert await told(made.caller("eve"), topic) == 404


async def test_a_change_of_membership_costs_the_same_however_many_members_there_are(
    sites: Callable[..., AbstractAsyncContextManager[Site]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sites(plugins={"conversations": {}, "persistence": {"url": "memory://", "policies": FAN_OUT}}) as made:
        alice, storage, written = made.caller("alice"), made.server.storage, 0
        real, read = storage.commit, storage.rows

        async def counted(operations: Sequence[Operation]) -> None:
            nonlocal written
            written += len(operations)
            await real(operations)

        async def rows(*arguments: Any, **more: Any) -> list[Row]:
            nonlocal written
            page = await read(*arguments, **more)
            written += len(page)
            return page

        monkeypatch.setattr(storage, "commit", counted)
        monkeypatch.setattr(storage, "rows", rows)
        costs = []
        for members in (0, 5000):
            channel = (await alice.post("/conversations", json={"kind": "channel"})).json()["topic"]
            many = [PutRow("conversation member", channel, f"u/{n}", b'{"role": "read-only"}') for n in range(members)]
            await made.server.api.commit([*many], 10)
            await made.device("bob", f"phone-{members}")
            written = 0
            assert (await alice.put(f"/conversations/{channel}/members/{BOB}", json={})).status_code == 200
            assert (await alice.delete(f"/conversations/{channel}/members/{BOB}")).status_code == 204
            costs.append(written)
        assert costs[0] > 5, costs
        assert abs(costs[1] - costs[0]) < 10, costs  # of the second one bob has another device


async def test_owners_and_admins_recall_what_others_said(
    sites: Callable[..., AbstractAsyncContextManager[Site]], url: str
) -> None:
    async with sites(url, plugins={"recall": {}, "conversations": {}}) as talk:
        alice, bob, eve = talk.caller("alice"), talk.caller("bob"), talk.caller("eve")
        topic = await group(alice, BOB, EVE)
        said = [(await say(eve, topic, text)).json()["id"] for text in ("one", "two")]
        assert (await bob.post(f"/messages/{said[0]}/recall", json={})).status_code == 403
        assert (await alice.post(f"/messages/{said[0]}/recall", json={})).status_code == 200
        assert (await alice.put(f"/conversations/{topic}/members/{BOB}", json={"role": "admin"})).status_code == 200
        assert (await bob.post(f"/messages/{said[1]}/recall", json={})).status_code == 200
        assert await told(eve, topic) == ["", "", "", ""]
