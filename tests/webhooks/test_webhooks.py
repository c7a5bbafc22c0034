"""Webhooks: signed, in order, at least once, from a place of their own; also over restarts, kills and nodes."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.access import Ban
from broker.config import checked
from broker.errors import StartError
from plugins.http import HttpPlugin
from plugins.webhooks import WebhooksPlugin
from plugins.webhooks.signature import headers, key_of
from storage.records import Append, DropSetting, PutRow, SaveSetting
from tests.accounts.test_users import ACCOUNTS, CHEAP, users_of
from tests.http.conftest import site
from tests.support.broker import ANONYMOUS, Broker, running
from tests.support.cluster import cluster
from tests.support.laws_process import broker_process
from tests.support.until import until
from tests.support.wire import Client
from tests.webhooks.receiver import SECRET, Receiver

NOBODY = {"tests.support.laws_auth.NameIsPassword": False, "tests.support.laws_auth.ForbiddenTopics": False}
HTTP = {"http": {"bind": "127.0.0.1:0", "operator_file": ""}}


def plugins(receiver: Receiver, **options: Any) -> dict[str, Any]:
    hook = {"name": "push", "url": receiver.url, "secrets": [SECRET], "timeout": 60, **options}
    return {**HTTP, "webhooks": {"hooks": [hook]}}


async def state(broker: Broker) -> dict[str, Any]:
    plugin = broker.server.api.plugin(HttpPlugin)
    assert plugin is not None
    async with httpx.AsyncClient(timeout=30) as http:

        async def asked() -> list[dict[str, Any]]:
            answer = await http.get("http://{}:{}/v1/webhooks".format(*plugin.address))
            return list(answer.json()["hooks"]) if answer.status_code == 200 else []

        (hook,) = await until(asked)
        return hook


def test_signatures_are_those_of_the_specification() -> None:
    """The example of standardwebhooks.com; and a key that is being rolled signs beside the new one."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = headers([key, key_of(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    signatures = made["webhook-signature"].split()
    assert signatures[0] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert len(signatures) == 2
    assert (made["webhook-id"], made["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"secrets": []}, "at least one is needed"),
        ({"secrets": ["whsec_AAAA"]}, "base64 of 24 to 64 bytes"),
        ({"secrets": ["AAAA"]}, "whsec_"),
        ({"url": "ftp://x"}, "http://"),
        ({"url": "http://a:b@x/"}, "user or password"),
        ({"events": ["message.read"]}, "message.read"),
        ({"filters": ["a#"]}, "filters"),
        ({"name": "a b"}, "letters"),
        ({"give_up_after": "soon"}, "give_up_after"),
        ({"cafile": "nowhere.pem"}, "nowhere.pem"),
    ],
)
def test_what_is_wrong_with_a_hook_is_told(options: dict[str, Any], told: str) -> None:
    hook = {"name": "push", "url": "https://x/", "secrets": [SECRET], **options}
    with pytest.raises(StartError, match=told) as error:
        checked("plugins.webhooks.WebhooksPlugin", {"hooks": [hook]})
    assert base64.b64encode(bytes(range(32))).decode() not in str(error.value)


async def test_events_are_told_in_order_and_only_those_that_are_wanted(tmp_path: Path) -> None:
    """Also by a service that answers with errors and redirects at first."""
    every = ["message.stored", "message.offline", "client.connected", "client.disconnected"]
    async with Receiver() as receiver:
        receiver.answers = [500, 302]
        options = plugins(receiver, events=every, filters=["chat/#"])
        async with running(f"sqlite:///{tmp_path}/t.db", plugins=options) as broker:
            await state(broker)
            away, here = await broker.durable("away"), await broker.durable("here")
            for client in (away, here):
                await client.subscribe("chat/#", options=1)
            await broker.lose(away, "away")
            await receiver.told(3)
            await here.publish("chat/1", b"hello")
            await here.message()
            await here.publish("other", b"no")
            await receiver.told(5)
            told = [(event["type"], event["data"].get("user") or event["data"].get("client")) for event in receiver.events]
            assert told == [
                ("client.connected", "c/away"),
                ("client.connected", "c/here"),
                ("client.disconnected", "c/away"),
                ("message.stored", None),
                ("message.offline", "c/away"),
            ]
            message = receiver.events[4]["data"]["message"]
            assert (message["topic"], message["payload"], message["sender"]) == ("chat/1", "hello", "c/here")
            assert receiver.ids[0] == receiver.ids[1] == receiver.ids[2]  # what is tried again has the id that it had

            async def delivered() -> bool:
                return bool((await state(broker))["delivered"] == 5)

            await until(delivered)
            hook = await state(broker)
            assert (hook["failures"], hook["error"]) == (2, None)
            assert (await here.subscribe("$sync/clients"))[0] >= 0x80


async def test_who_has_muted_a_conversation_is_not_notified(tmp_path: Path) -> None:
    """As of when the hook comes to the message."""
    async with Receiver() as receiver:
        options = {**plugins(receiver, events=["message.offline"]), "conversations": {}}
        async with site(f"sqlite:///{tmp_path}/t.db", plugins=options) as made:
            await state(made)
            for name in ("bob", "cat"):
                await made.lose(await made.durable(name), name)
            ann, bob = (made.caller(params={"user": user}) for user in ("c/ann", "c/bob"))
            begun = await ann.post("/conversations", json={"kind": "group", "members": ["c/bob", "c/cat"]})
            topic = f"/conversations/{begun.json()['topic']}"
            for muted, events in ((True, 1), (False, 3)):
                assert (await bob.put(f"{topic}/mute", json={"muted": muted})).status_code == 200
                said = await ann.post(f"{topic}/messages", json={"payload": f"muted: {muted}"})
                assert said.status_code == 201
                await receiver.told(events)
        told = sorted((event["data"]["message"]["payload"], event["data"]["user"]) for event in receiver.events)
        assert told == [("muted: False", "c/bob"), ("muted: False", "c/cat"), ("muted: True", "c/cat")]


async def test_of_who_is_shut_out_no_service_is_told() -> None:
    async with Receiver() as receiver:
        options = {**plugins(receiver, events=["message.offline"], start="earliest"), **ACCOUNTS}
        async with running(plugins=options) as broker:
            users, commit = users_of(broker), broker.server.api.commit
            for name in ("ann", "bob", "cid", "dan"):
                await users.add(name, CHEAP.hash(name))
                device = await broker.durable(name, 5, username=name, password=name.encode())
                if name != "dan":
                    await device.subscribe("chat", options=1)
                    await broker.lose(device, name)
            ban = Ban("user", "u/bob")
            await commit([SaveSetting("ban", ban.key, ban.value())], 30)
            await users.change("ann", disabled=True)
            await device.publish("chat", b"1")
            await receiver.told(1)
            await users.change("ann", disabled=False)
            await device.publish("chat", b"2")
            await receiver.told(3)
            await commit([DropSetting("ban", ban.key)], 30)
            await device.publish("chat", b"3")
            await receiver.told(6)
        told = sorted((event["data"]["message"]["payload"], event["data"]["user"]) for event in receiver.events)
        expected = {"1": ["cid"], "2": ["ann", "cid"], "3": ["ann", "bob", "cid"]}
        assert told == [(payload, f"u/{name}") for payload, names in expected.items() for name in names]


async def test_nobody_is_notified_of_what_access_rules_keep_from_them() -> None:
    """Each of a user's devices is asked about, as for a delivery."""
    rules = [
        {"allow": "all", "topics": "#"},
        {"deny": "read", "topics": "chat/#", "users": "eve"},
        {"deny": "receive", "topics": "chat/{client}"},
    ]
    async with Receiver() as receiver:
        options = {**plugins(receiver, events=["message.offline"], start="earliest"), **ACCOUNTS, "acl": {"rules": rules}}
        async with running(plugins=options) as broker:
            for name in ("ann", "bob", "eve", "dan"):
                await users_of(broker).add(name, CHEAP.hash(name))
            devices = [("ann", "1"), ("ann", "2"), ("bob", "1"), ("eve", "away"), ("dan", "here")]
            for name, id in devices:
                device = await broker.durable(id + name, 5, username=name, password=name.encode())
                if name != "dan":
                    await device.subscribe("#" if name == "eve" else "chat/#", options=1)
                    await broker.lose(device, id + name)
            for topic in ("chat/1bob", "chat/1ann", "news"):
                await device.publish(topic, b"")
            await receiver.told(4)
        told = [(event["data"]["message"]["topic"], event["data"]["user"]) for event in receiver.events]
        assert sorted(told) == [("chat/1ann", "u/ann"), ("chat/1ann", "u/bob"), ("chat/1bob", "u/ann"), ("news", "u/eve")]


async def test_nobody_but_members_is_notified_of_what_is_theirs(tmp_path: Path) -> None:
    """Where there are no access rules at all."""
    async with Receiver() as receiver:
        options = {**plugins(receiver, events=["message.offline"]), "conversations": {}}
        async with site(f"sqlite:///{tmp_path}/t.db", plugins=options) as made:
            await state(made)
            ann = made.caller(params={"user": "c/ann"})
            for name in ("bob", "cat"):
                device = await made.durable(name)
                await device.subscribe("#", options=1)
                await made.lose(device, name)
            begun = await ann.post("/conversations", json={"kind": "group", "members": ["c/bob"]})
            topic = begun.json()["topic"]
            assert (await ann.post(f"/conversations/{topic}/messages", json={"payload": "theirs"})).status_code == 201
            other = await made.client("other")
            await other.publish("all", b"")
            await receiver.told(3)
        told = sorted((event["data"]["message"]["topic"], event["data"]["user"]) for event in receiver.events)
        assert told == [("all", "c/bob"), ("all", "c/cat"), (topic, "c/bob")]


async def test_nothing_is_lost_over_a_kill_nor_over_a_service_that_is_away(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        options = {**NOBODY, **ANONYMOUS, **plugins(receiver, start="earliest")}  # the process listens before the hook begins
        with broker_process(tmp_path, f"sqlite:///{tmp_path}/t.db", plugins=options) as broker:
            client = await Client.open(("127.0.0.1", broker.port))
            await client.connect("client")
            await client.publish("t", b"0")
            await receiver.told(1)
            receiver.down = True
            for number in range(1, 30):
                await client.publish("t", b"%d" % number)
            await until(lambda: len(receiver.ids) > 1)
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            receiver.down = False
            await receiver.told(30)
        assert receiver.payloads() == [str(number) for number in range(30)]


CLIENTS = {"events": ["client.connected", "client.disconnected"]}


async def test_a_client_is_let_in_when_it_is_durable_that_it_came(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(f"sqlite:///{tmp_path}/t.db", plugins=plugins(receiver, **CLIENTS)) as broker:
        await state(broker)
        async with broker.held() as commits:
            client = await broker.socket()
            connecting = asyncio.create_task(client.connect("client"))
            group = await commits.arrived()
            assert any(isinstance(one, PutRow) for one in group)
            assert [one.message.topic for one in group if isinstance(one, Append)] == ["$sync/clients"]
            assert not connecting.done()
        assert (await connecting).reason == 0
        await receiver.told(1)


async def test_no_coming_or_going_is_lost_over_a_kill(tmp_path: Path) -> None:
    """Nor that those who were there at the kill are gone."""
    async with Receiver() as receiver:
        receiver.down = True
        options = {**NOBODY, **ANONYMOUS, **plugins(receiver, **CLIENTS, start="earliest")}
        with broker_process(tmp_path, f"sqlite:///{tmp_path}/t.db", plugins=options) as broker:
            clients = [await Client.open(("127.0.0.1", broker.port)) for _ in range(3)]
            for number, client in enumerate(clients):
                await client.connect(f"c{number}")
            await clients[0].drop()
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            receiver.down = False
            await receiver.told(6)
        once = {event["id"]: event for event in receiver.events}.values()
        told = [(event["type"], event["data"]["client"], event["data"]["connection"]) for event in once]
        came = [(client, connection) for kind, client, connection in told if kind == "client.connected"]
        gone = [(client, connection) for kind, client, connection in told if kind == "client.disconnected"]
        assert [client for client, _ in came] == ["c0", "c1", "c2"]
        assert sorted(gone) == sorted(came)


async def test_what_is_not_taken_for_too_long_becomes_a_dead_letter(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        options = plugins(receiver, give_up_after="1s", batch=10)
        async with running(f"sqlite:///{tmp_path}/t.db", errors=True, plugins=options) as broker:
            await state(broker)
            client, undertaker = await broker.client("client"), await broker.durable("undertaker")
            await undertaker.subscribe("dead-letters/push", options=1)
            receiver.down = True
            await client.publish("t", b"lost")
            letter = await undertaker.message()
            assert b'"payload": "lost"' in letter.payload
            receiver.down = False
            await client.publish("t", b"taken")
            await receiver.told(1)
            assert receiver.payloads() == ["taken"]
            assert (await state(broker))["dead"] == 1


async def test_one_node_tells_and_another_goes_on_when_it_dies() -> None:
    """Also that the clients of the dead one are gone."""
    events = ["message.offline", "client.disconnected"]
    async with Receiver() as receiver, cluster(2, errors=True, plugins=plugins(receiver, events=events)) as made:
        one, other = made.nodes
        await state(one)
        away, here = await one.durable("away"), await other.durable("here")
        for client in (away, here):
            await client.subscribe("t", options=1)
        await until(lambda: other.server.cluster is not None and other.server.cluster.has("c/away"))
        await one.lose(away, "away")
        await until(lambda: "c/away" in set(other.server.api.users_away("t")))
        publisher = await other.client("publisher")
        for number in range(5):
            await publisher.publish("t", b"%d" % number)
        await receiver.told(6)
        assert {event["data"]["user"] for event in receiver.events} == {"c/away"}
        (runs,) = await until(lambda: [node for node in made.nodes if _runs(node)])
        stays = other if runs is one else one
        publisher = await stays.client("publisher-2")
        await runs.client("of-the-dead")
        await runs.kill()
        for number in range(5, 10):
            await publisher.publish("t", b"%d" % number)
        await until(lambda: {str(number) for number in range(10)} <= set(receiver.payloads()))
        await until(lambda: any(event["data"].get("client") == "of-the-dead" for event in receiver.events))


def _runs(node: Broker) -> bool:
    plugin = node.server.api.plugin(WebhooksPlugin)
    return plugin is not None and any(runner.place.running for runner in plugin._runners)
