"""Presence: who is online is told on subscribing and when it changes, and is right after kills."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from amqtt.plugins.base import BasePlugin

from broker.access import info_of
from broker.config import checked
from broker.errors import StartError
from broker.packets.codes import ReasonCode
from broker.packets.model import PubAck, Publish
from plugins.presence import PresencePlugin
from plugins.presence.devices import Change, Devices
from storage.records import Append, DeviceKey
from tests.http.conftest import Site, site
from tests.support.clocks import Clocks
from tests.support.cluster import cluster
from tests.support.laws_process import broker_process
from tests.support.until import until
from tests.support.wire import Client

PHONE, TABLET = DeviceKey("u/ann", "phone"), DeviceKey("u/ann", "tablet")


@asynccontextmanager
async def broker(
    url: str = "memory://", grace: object = 0, plugins: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Site]:
    async with site(url, plugins={"presence": {"grace": grace}, **(plugins or {})}, **options) as made:
        yield made


async def told(client: Client) -> tuple[str, bool]:
    """The next that is told: the user, and whether it is online."""
    message = await client.message()
    state = json.loads(message.payload)
    assert message.topic == f"$presence/{state['user']}"
    return state["user"], state["online"]


async def test_who_comes_and_goes_is_told_and_who_is_there_on_subscribing(url: str) -> None:
    async with broker(url) as made:
        watcher = await made.client("watcher", 5)
        assert await watcher.subscribe("$presence/c/phone", options=1) == [1]
        phone = await made.client("phone")
        assert await told(watcher) == ("c/phone", True)
        late = await made.client("late", 5)
        assert await late.subscribe("$presence/c/phone") == [0]
        assert await told(late) == ("c/phone", True)
        await made.lose(phone, "phone")
        assert await told(watcher) == ("c/phone", False)
        state = (await made.caller().get("/presence/c/phone")).json()
        assert (state["online"], [(d["device"], d["online"]) for d in state["devices"]]) == (False, [("phone", False)])
        assert state["since"] == state["devices"][0]["since"] > 0
        never = (await made.caller().get("/presence/u/never")).json()
        assert never == {"user": "u/never", "online": False, "since": None, "devices": []}
        everybody, after = [], ""
        while after is not None:
            page = (await made.caller().get("/presence", params={"limit": 2, "after": after})).json()
            everybody += [(one["user"], one["online"]) for one in page["users"]]
            after = page["next"]
        assert everybody == [("c/late", True), ("c/phone", False), ("c/watcher", True)]
        await watcher.subscribe("$sync/reply/watcher")
        await watcher.publish("$sync/request", b'{"op": "presence", "user": "c/phone"}')
        answer = json.loads((await watcher.message()).payload)
        assert {name: answer[name] for name in state} == state


async def test_who_reads_is_told_of_all_where_very_many_come_at_once(url: str) -> None:
    """Nothing stores what is told: it must not come faster than a socket takes it."""
    async with broker(url) as made:
        watcher = await made.client("watcher", 5)
        await watcher.subscribe("$presence/c/+", options=0)
        plugin = made.server.api.plugin(PresencePlugin)
        assert plugin is not None
        for number in range(700):
            plugin.opening(number, info_of(f"c/user-{number}", f"user-{number}"))
        seen: set[str] = set()
        while len(seen) < 700:
            user, online = await told(watcher)
            if user.startswith("c/user-"):
                assert online
                seen.add(user)


async def test_a_user_is_online_while_one_device_is(url: str) -> None:
    names: dict[str, Any] = {"tests.support.laws_auth.NameIsPassword": {}}
    async with broker(url, plugins=names) as made:
        login: dict[str, Any] = {"username": "ann", "password": b"ann"}
        watcher = await made.client("watcher", 5, username="bob", password=b"bob")
        await watcher.subscribe("$presence/u/ann", options=1)
        phone = await made.client("phone", **login)
        assert await told(watcher) == ("u/ann", True)
        tablet = await made.client("tablet", **login)
        assert [await told(watcher)] == [("u/ann", True)]
        await made.lose(phone, "phone")
        assert await told(watcher) == ("u/ann", True)
        await made.lose(tablet, "tablet")
        assert await told(watcher) == ("u/ann", False)


async def test_nobody_speaks_for_the_broker_and_rules_say_who_may_see() -> None:
    rules = [{"allow": "publish", "topics": "$presence/#"}, {"allow": "read", "topics": "$presence/c/{client}"}]
    async with broker(plugins={"acl": {"rules": rules}}) as made:
        eve = await made.client("eve", 5)
        assert await eve.subscribe("$presence/c/eve", "$presence/c/ann", "$presence/#") == [0, 0x87, 0x87]
        eve.send(Publish("$presence/c/ann", b"{}", 1, True, packet_id=9))
        codes = [packet.reason async for packet in acks(eve)]
        assert codes == [ReasonCode.NOT_AUTHORIZED]
        answer = await made.caller().post("/messages", json={"topic": "$presence/c/ann", "payload": "{}"})
        assert answer.status_code == 403


async def acks(client: Client) -> AsyncIterator[PubAck]:
    """The next PUBACK, whatever is told before it."""
    while not isinstance(packet := await client.receive(), PubAck):
        pass
    yield packet


async def test_a_client_that_flaps_is_told_once() -> None:
    async with broker(grace=3600) as made:
        watcher = await made.client("watcher")
        await watcher.subscribe("$presence/c/phone", options=1)
        for _ in range(20):
            phone = await made.client("phone")
            await made.lose(phone, "phone")
        assert await told(watcher) == ("c/phone", True)
        await watcher.quiet()


async def test_nothing_is_kept_of_a_client_that_can_never_come_back(url: str) -> None:
    """The broker made its id, and its session ends with it. A user keeps what there is of other devices; a session that lasts
    may be continued by the id that was told."""
    names: dict[str, Any] = {"tests.support.laws_auth.NameIsPassword": {}}
    async with broker(url, plugins=names) as made:
        login: dict[str, Any] = {"username": "ann", "password": b"ann"}
        await made.lose(await made.client("phone", **login), "phone")
        watcher = await made.client("watcher", 5, username="bob", password=b"bob")
        await watcher.subscribe("$presence/u/ann", options=1)
        while await told(watcher) != ("u/ann", False):  # maybe retained from before it went
            pass
        one = await made.client("", **login)
        assert await told(watcher) == ("u/ann", True)
        await one.drop()
        state = json.loads((await watcher.message()).payload)
        assert [device["device"] for device in state["devices"]] == ["phone"]
        five = await made.client("", 5, expiry=100, **login)
        await told(watcher)
        await five.drop()
        state = json.loads((await watcher.message()).payload)
        assert len(state["devices"]) == 2
        assert not state["online"]


async def test_no_retained_message_is_left_of_a_client_that_can_never_come_back(url: str) -> None:
    async with broker(url) as made:
        watcher = await made.client("watcher")
        await watcher.subscribe("$presence/c/+", options=1)
        await told(watcher)
        for version in (4, 5):
            one = await made.client("", version)
            user, online = await told(watcher)
            assert online
            await one.drop()
            last = await watcher.message()
            assert (last.topic, last.payload) == (f"$presence/{user}", b"")
        storage = made.server.storage
        (kept,) = await storage.retained_range("$presence/", "", 10)
        assert kept.topic == "$presence/c/watcher"
        assert [user async for users in storage.parts("presence") for user in users] == ["c/watcher"]


async def test_the_operator_clears_what_is_left_where_presence_is_off(url: str) -> None:
    async with broker(url) as made:
        watcher = await made.client("watcher")
        await watcher.subscribe("$presence/c/phone", options=1)
        await made.client("phone")
        assert await told(watcher) == ("c/phone", True)
    async with site(url, plugins={}) as made:
        operator = made.caller()
        assert (await operator.delete("/retained/$presence/c/phone")).status_code == 204
        assert (await operator.delete("/retained/$presence/c/phone")).status_code == 404
        left = (await operator.get("/retained", params={"filter": "$presence/#"})).json()["messages"]
        assert "$presence/c/phone" not in [message["topic"] for message in left]


async def test_nothing_is_left_of_one_by_a_sigkill(url: str, tmp_path: Path) -> None:
    with broker_process(tmp_path, url, plugins={"presence": {"grace": "1s"}}) as process:

        async def client(name: str, user: str) -> Client:
            made = await Client.open(("127.0.0.1", process.port), 5)
            await made.connect(name, username=user, password=user.encode())
            return made

        watcher = await client("watcher", "watcher")
        await watcher.subscribe("$presence/u/ann", options=1)
        await client("", "ann")
        assert await told(watcher) == ("u/ann", True)
        await asyncio.to_thread(process.restart)
        watcher = await client("watcher", "watcher")
        await watcher.subscribe("$presence/u/ann", options=1)
        while (await watcher.message()).payload:
            pass


async def test_nobody_stays_online_over_a_sigkill(url: str, tmp_path: Path) -> None:
    with broker_process(tmp_path, url, plugins={"presence": {"grace": "1s"}}) as process:

        async def client(name: str) -> Client:
            made = await Client.open(("127.0.0.1", process.port), 5)
            await made.connect(name, username=name, password=name.encode())
            return made

        watcher = await client("watcher")
        await watcher.subscribe("$presence/u/phone", options=1)
        await client("phone")
        assert await told(watcher) == ("u/phone", True)
        await asyncio.to_thread(process.restart)
        watcher = await client("watcher")
        await watcher.subscribe("$presence/u/phone", options=1)
        while (await told(watcher)) != ("u/phone", False):
            pass


async def test_who_was_on_a_killed_node_is_offline_or_where_it_came_back() -> None:
    options = {"presence": {"grace": 0}}
    async with cluster(2, plugins=options, errors=True) as made, asyncio.timeout(60):
        one, two = made.nodes
        watcher = await two.client("watcher", 5)
        await watcher.subscribe("$presence/c/phone", "$presence/c/tablet", options=1)
        await one.client("phone")
        assert await told(watcher) == ("c/phone", True)
        await one.client("tablet")
        assert await told(watcher) == ("c/tablet", True)
        await one.kill()
        await two.client("tablet")
        seen: dict[str, bool] = {}
        while seen.get("c/phone") is not False:
            user, online = await told(watcher)
            seen[user] = online
        (tablet,) = await two.storage.retained_range("$presence/c/tablet", "", 1)
        assert json.loads(tablet.payload)["online"]
        await two.kill()
        three = await made.start()
        last = await three.client("last", 5)
        await last.subscribe("$presence/c/tablet", options=1)
        while (await told(last)) != ("c/tablet", False):
            pass


async def test_who_goes_on_through_another_node_stays_online() -> None:
    """What its old node says of it comes later, and counts for nothing."""
    async with cluster(1, plugins={"presence": {"grace": "300ms"}}) as made, asyncio.timeout(60):
        one, two = made.nodes[0], await made.start()
        watcher = await one.client("watcher", 5)
        await watcher.subscribe("$presence/c/phone", "$presence/c/tablet", options=1)
        await one.durable("phone")
        assert await told(watcher) == ("c/phone", True)
        await two.durable("phone")
        plugin = one.server.api.plugin(PresencePlugin)
        assert plugin is not None
        devices = plugin._devices
        await until(lambda: len(devices) == 1 and devices.next() > 1e9, "the old node has told that it has gone")
        await one.client("tablet")  # what is told of it comes behind that
        states = [await told(watcher)]
        while states[-1] != ("c/tablet", True):
            states.append(await told(watcher))
        assert ("c/phone", False) not in states


async def test_two_nodes_at_once_agree_on_a_user() -> None:
    """Each has one of its devices, which go at the same moment: the last word is that it is offline."""
    options: dict[str, Any] = {"presence": {"grace": 0}, "tests.support.laws_auth.NameIsPassword": {}}
    async with cluster(2, plugins=options) as made:
        login: dict[str, Any] = {"username": "ann", "password": b"ann"}
        for _ in range(5):
            devices = [await node.client(f"device-{place}", **login) for place, node in enumerate(made.nodes)]
            await until(lambda: count(made.nodes[0].storage, online=2))
            for place, (node, device) in enumerate(zip(made.nodes, devices, strict=True)):
                await node.lose(device, f"device-{place}")
            await until(lambda: count(made.nodes[0].storage, online=0))


async def test_what_was_made_of_rows_that_changed_meanwhile_is_told_anew() -> None:
    """One node's word waits, while the other one's comes before it: the last one is of the rows as they are."""
    options: dict[str, Any] = {"presence": {"grace": 0}, "tests.support.laws_auth.NameIsPassword": {}}
    async with cluster(2, plugins=options) as made:
        one, two = made.nodes
        login: dict[str, Any] = {"username": "ann", "password": b"ann"}
        first, second = await one.client("first", **login), await two.client("second", **login)
        await until(lambda: count(two.storage, online=2))
        watcher = await two.client("watcher", 5, username="bob", password=b"bob")
        await watcher.subscribe("$presence/u/ann", options=1)
        assert await told(watcher) == ("u/ann", True)
        async with one.held() as commits:

            async def tells() -> bool:
                """Whether the node's word waits; what waits before that goes through."""
                group = commits.waiting
                if any(isinstance(op, Append) and op.message.topic == "$presence/u/ann" for op in group):
                    return True
                if group:
                    commits.let()
                    await until(lambda: commits.waiting is not group)
                return False

            await first.drop()
            await until(tells, "the word of the first node waits")
            await two.lose(second, "second")
            assert await told(watcher) == ("u/ann", False)
        assert [await told(watcher) for _ in range(2)] == [("u/ann", True), ("u/ann", False)]


async def count(storage: Any, online: int) -> bool:
    """Whether so many devices of Ann's are told to be online."""
    found = await storage.retained_range("$presence/u/ann", "", 1)
    return bool(found) and sum(d["online"] for d in json.loads(found[0].payload)["devices"]) == online


async def test_who_was_seen_long_ago_is_forgotten() -> None:
    clocks = Clocks()
    async with broker(plugins={"presence": {"grace": 0, "forget_after": "1h"}}, time=clocks.time) as made:
        phone = await made.client("phone")
        await made.lose(phone, "phone")
        storage = made.server.storage

        async def online() -> Any:
            found = await storage.retained_range("$presence/c/phone", "", 1)
            return json.loads(found[0].payload)["online"] if found else None

        async def offline() -> bool:
            return (await online()) is False

        await until(offline)
        plugin = made.server.api.plugin(PresencePlugin)
        assert plugin is not None
        assert plugin._cleaning is not None
        clocks.pass_by(3600)
        await plugin._cleaning.forget()
        assert await online() is False
        clocks.pass_by(1)
        await plugin._cleaning.forget()
        assert await online() is None
        assert await storage.rows("presence", "c/phone") == []


class Stuck(BasePlugin[Any]):
    """An amqtt plugin that takes its time with each client: the events wait in one queue for all plugins."""

    gate = asyncio.Event()

    async def on_broker_client_connected(self, **_: Any) -> None:
        await self.gate.wait()


async def test_a_plugin_that_is_stuck_holds_up_nobodys_presence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stuck, "gate", asyncio.Event())
    async with broker(plugins={f"{__name__}.Stuck": {}}, hooks={"timeout": 600}) as made:
        try:
            watcher = await made.client("watcher")
            await watcher.subscribe("$presence/c/phone", options=1)
            phone = await made.client("phone")
            assert await told(watcher) == ("c/phone", True)
            await made.lose(phone, "phone")
            assert await told(watcher) == ("c/phone", False)
        finally:
            Stuck.gate.set()


def test_devices_that_take_each_others_place() -> None:
    devices = Devices(10.0)
    devices.came(PHONE, 1)
    devices.came(PHONE, 2)  # before the other one is gone
    assert devices.due(0.0, 10) == [Change(PHONE, True, 1)]
    devices.went(PHONE, 3, 0.0)
    assert devices.due(100.0, 10) == []
    devices.went(PHONE, 4, 100.0)
    devices.came(TABLET, 5)
    assert devices.due(105.0, 10) == [Change(TABLET, True, 5)]
    assert devices.next() == 110.0
    gone = devices.due(110.0, 10)
    assert gone == [Change(PHONE, False, 4)]
    devices.again(gone)
    assert devices.due(110.0, 10) == gone
    devices.came(PHONE, 6)
    devices.again(gone)  # that one is older
    assert devices.due(120.0, 10) == [Change(PHONE, True, 6)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grace": "soon"}, "grace"),
        ({"forget_after": -1}, "forget_after"),
        ({"typing_rate": 0}, "0.01"),
        ({"typing_size": -1}, "65536"),
    ],
)
def test_what_is_wrong_with_a_setting_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told):
        checked("plugins.presence.PresencePlugin", options)
