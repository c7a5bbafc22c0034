"""Subscribing and unsubscribing is one thing, whoever asks for it: SUBSCRIBE, a plugin, a request over MQTT, or HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from broker.packets.model import Subscribe
from tests.http.conftest import Site, site
from tests.plugin_host.third_party import Recorder
from tests.support.broker import ANONYMOUS
from tests.support.until import until
from tests.support.wire import Client, divided

REFUSED = -1
PHONE = "phone"


class Entrance:
    """A way to subscribe alice's phone."""

    def __init__(self, broker: Site, phone: Client) -> None:
        self.broker = broker
        self.phone = phone

    async def begin(self) -> None:
        """What it needs before."""

    async def subscribe(self, filter_: str, qos: int = 1) -> int:
        """The granted QoS, or `REFUSED`."""
        raise NotImplementedError

    async def unsubscribe(self, filter_: str) -> None:
        raise NotImplementedError


class OverPacket(Entrance):
    async def subscribe(self, filter_: str, qos: int = 1) -> int:
        code = (await self.phone.subscribe(filter_, options=qos))[0]
        return code if code < 0x80 else REFUSED

    async def unsubscribe(self, filter_: str) -> None:
        await self.phone.unsubscribe(filter_)


class OverHttp(Entrance):
    async def begin(self) -> None:
        self.caller = self.broker.caller("alice")

    async def subscribe(self, filter_: str, qos: int = 1) -> int:
        answer = await self.caller.post(f"/devices/{PHONE}/subscriptions", json={"filter": filter_, "qos": qos})
        assert answer.status_code in (200, 403, 422), answer.text
        found = {s["filter"]: s["qos"] for s in answer.json().get("subscriptions", ())}
        return int(found[filter_]) if answer.status_code == 200 else REFUSED

    async def unsubscribe(self, filter_: str) -> None:
        answer = await self.caller.delete(f"/devices/{PHONE}/subscriptions", params={"filter": filter_})
        assert answer.status_code == 204, answer.text


class OverRequest(Entrance):
    """Asked by another device of alice."""

    async def begin(self) -> None:
        self.tablet = await self.broker.client("tablet", username="alice", password=b"alice-password")
        await self.tablet.subscribe("$sync/reply/tablet", options=1)

    async def _ask(self, **fields: Any) -> Any:
        await self.tablet.publish("$sync/request", json.dumps({"device": PHONE, **fields}).encode())
        return json.loads((await self.tablet.message()).payload)

    async def subscribe(self, filter_: str, qos: int = 1) -> int:
        answer = await self._ask(op="subscribe", filter=filter_, qos=qos)
        if "error" in answer:
            assert answer["error"]["status"] in (403, 422)
            return REFUSED
        return int({s["filter"]: s["qos"] for s in answer["subscriptions"]}[filter_])

    async def unsubscribe(self, filter_: str) -> None:
        assert "error" not in await self._ask(op="unsubscribe", filter=filter_)


class OverPlugin(Entrance):
    """amqtt's plugins can subscribe a session, and not unsubscribe it."""

    async def subscribe(self, filter_: str, qos: int = 1) -> int:
        code = await self.broker.server.api.add_subscription(PHONE, filter_, qos)
        return code if code < 0x80 else REFUSED


ENTRANCES = {"packet": OverPacket, "plugin": OverPlugin, "request": OverRequest, "http": OverHttp}
every = pytest.mark.parametrize("kind", ENTRANCES.values(), ids=ENTRANCES.keys())
away = pytest.mark.parametrize("kind", list(ENTRANCES.values())[1:], ids=list(ENTRANCES)[1:])
taking = pytest.mark.parametrize(
    "kind", [kind for name, kind in ENTRANCES.items() if name != "plugin"], ids=[n for n in ENTRANCES if n != "plugin"]
)

Opening = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture(params=["memory", "sqlite"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Opening:
    """Opens a broker of each kind of storage, the same one each time; `Fence` and `Recorder` are loaded."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/broker.db"

    @asynccontextmanager
    async def opened(start: str = "latest", **sections: Any) -> AsyncIterator[Site]:
        plugins = {
            "sync": {"start": start},
            next(iter(ANONYMOUS)): False,
            "tests.support.auth_plugins.Anybody": {},
            "tests.support.auth_plugins.Fence": {},
            "tests.plugin_host.third_party.Recorder": {},
        }
        async with site(url, plugins=plugins, **sections) as broker:
            yield broker

    return opened


async def entrance(kind: type[Entrance], broker: Site) -> Entrance:
    made = kind(broker, await broker.device("alice", PHONE, 5))
    await made.begin()
    return made


async def bob(broker: Site) -> Client:
    return await broker.client("bobs", 5, username="bob", password=b"bob-password")


@every
async def test_matches_and_brings_what_is_retained(kind: type[Entrance], opening: Opening) -> None:
    async with opening() as broker:
        sender = await bob(broker)
        for number in range(2):
            await sender.publish("t/a", str(number).encode(), retain=True)
        way = await entrance(kind, broker)
        assert await way.subscribe("t/+", 1) == 1
        message = await way.phone.message()
        assert (message.payload, message.retain, message.qos) == (b"1", True, 1)
        await sender.publish("t/b", b"live", 2)
        message = await way.phone.message()
        assert (message.payload, message.retain, message.qos) == (b"live", False, 1)
        await way.phone.quiet()


@away
async def test_a_device_that_is_away_gets_them_when_it_is_back(kind: type[Entrance], opening: Opening) -> None:
    async with opening() as broker:
        sender = await bob(broker)
        await sender.publish("t", b"retained", retain=True)
        way = await entrance(kind, broker)
        await broker.lose(way.phone, PHONE)
        assert await way.subscribe("t", 2) == 2
        await sender.publish("t", b"later", 2)
        phone = await broker.device("alice", PHONE, 5)
        messages = await phone.message(), await phone.message()
        assert [(m.payload, m.retain) for m in messages] == [(b"retained", True), (b"later", False)]


@every
async def test_the_brokers_own_topics_too(kind: type[Entrance], opening: Opening) -> None:
    """Retained without storage: they go into no inbox."""
    async with opening() as broker:
        await broker.server.api.publish("$SYS/broker/greeting", b"hello", retain=True, durable=False)
        await broker.server.api.publish("own/greeting", b"hello", retain=True, durable=False)
        way = await entrance(kind, broker)
        assert await way.subscribe("$SYS/broker/greeting") == 1
        assert (await way.phone.message()).payload == b"hello"
        assert await way.subscribe("own/greeting") == 1
        message = await way.phone.message()
        assert (message.payload, message.retain) == (b"hello", True)
        assert await broker.server.storage.inbox_head("u/alice") == 0


@every
async def test_the_first_filter_of_a_new_device_starts_where_the_device_does(kind: type[Entrance], opening: Opening) -> None:
    async with opening(start="earliest") as broker:
        sender = await bob(broker)
        old = await broker.device("alice", "old", 5)
        await old.subscribe("t/#", options=1)
        for number in range(3):
            await sender.publish("t/a", str(number).encode())
        way = await entrance(kind, broker)
        assert await way.subscribe("t/+") == 1
        assert [m.payload for m in await way.phone.messages(3)] == [b"0", b"1", b"2"]
        assert await way.subscribe("t/#") == 1  # not the first any more
        await way.phone.quiet()


async def test_a_device_that_only_ever_came_over_http_starts_there_too(opening: Opening) -> None:
    async with opening(start="earliest") as broker:
        sender = await bob(broker)
        old = await broker.device("alice", "old", 5)
        await old.subscribe("t/#", options=1)
        await sender.publish("t/a", b"early")
        caller = broker.caller("alice")
        assert len((await caller.get("/sync", params={"device": PHONE})).json()["entries"]) == 1
        await caller.post(f"/devices/{PHONE}/subscriptions", json={"filter": "t/+"})
        entries = (await caller.get("/sync", params={"device": PHONE})).json()["entries"]
        assert [entry["message"]["payload"] for entry in entries] == ["early"]
        phone = await broker.device("alice", PHONE, 5)
        assert (await phone.message()).payload == b"early"


@every
async def test_the_acl_is_asked(kind: type[Entrance], opening: Opening) -> None:
    async with opening() as broker:
        way = await entrance(kind, broker)
        for filter_ in ("denied/#", "$share/g/denied/t"):
            assert await way.subscribe(filter_) == REFUSED
        session = broker.server.sessions.named(PHONE)[0]
        assert not session.subscriptions


@every
async def test_shared_subscriptions(kind: type[Entrance], opening: Opening) -> None:
    """The group divides the messages; nothing retained."""
    async with opening() as broker:
        sender, other = await bob(broker), await broker.device("alice", "other", 5)
        await sender.publish("t", b"retained", retain=True)
        way = await entrance(kind, broker)
        assert await way.subscribe("$share/g/t") == 1
        assert await other.subscribe("$share/g/t", options=1) == [1]
        assert len(broker.server.shared_groups) == 1
        for number in range(4):
            await sender.publish("t", str(number).encode())
        given = await divided([way.phone, other], 4)  # not even: who is still to be asked about is passed over
        assert sorted(message.payload for messages in given for message in messages) == [b"0", b"1", b"2", b"3"]
        await way.phone.quiet()


@every
@pytest.mark.parametrize("filter_", ["a/#/b", "a+", "", "$share//t", "$share/g", "$share/g/", "a\x07b", "$sync/reply/other"])
async def test_what_is_no_filter_or_nobodys_is_refused(kind: type[Entrance], opening: Opening, filter_: str) -> None:
    if kind is OverPacket and not filter_.startswith("$sync"):
        pytest.skip("the decoder refuses the packet")
    async with opening() as broker:
        way = await entrance(kind, broker)
        assert await way.subscribe(filter_) == REFUSED
        assert await way.subscribe("$sync/reply/phone") == 1
        assert broker.server.sessions.named(PHONE)[0].subscriptions.keys() == {"$sync/reply/phone"}


@every
async def test_limits(kind: type[Entrance], opening: Opening) -> None:
    async with opening(mqtt={"max_subscriptions": 2, "max_topic_levels": 3}) as broker:
        way = await entrance(kind, broker)
        assert await way.subscribe("a/b/c/d") == REFUSED
        assert await way.subscribe("a") == 1
        assert await way.subscribe("b") == 1
        assert await way.subscribe("c") == REFUSED
        assert await way.subscribe("a", 2) == 2


@every
async def test_plugins_hear_of_it(kind: type[Entrance], opening: Opening) -> None:
    async with opening() as broker:
        recorder = broker.server.api.plugin(Recorder)
        assert recorder is not None
        way = await entrance(kind, broker)
        await way.subscribe("t/#", 2)
        await way.subscribe("denied/#", 2)
        wanted = {"client_id": PHONE, "topic": "t/#", "qos": 2}
        await until(lambda: [heard for heard in recorder.named("subscribed") if heard["client_id"] == PHONE] == [wanted])


@taking
async def test_unsubscribing(kind: type[Entrance], opening: Opening) -> None:
    async with opening() as broker:
        recorder, sender = broker.server.api.plugin(Recorder), await bob(broker)
        assert recorder is not None
        way = await entrance(kind, broker)
        await way.phone.subscribe("t", "$share/g/u", options=1)
        await way.unsubscribe("t")
        await way.unsubscribe("$share/g/u")
        assert len(broker.server.shared_groups) == 0
        for topic in ("t", "u"):
            await sender.publish(topic, b"x")
        await way.phone.quiet()
        await until(lambda: [heard["topic"] for heard in recorder.named("unsubscribed")] == ["t", "$share/g/u"])


@every
async def test_it_is_in_force_after_a_restart(kind: type[Entrance], opening: Opening, request: pytest.FixtureRequest) -> None:
    if "memory" in request.node.callspec.id:
        pytest.skip("forgets")
    async with opening() as broker:
        way = await entrance(kind, broker)
        await way.subscribe("t/+", 2)
        await way.subscribe("$share/g/u", 1)
    async with opening() as broker:
        sender = await bob(broker)
        await sender.publish("t/a", b"x", 2)
        await sender.publish("u", b"y", 2)
        phone = await broker.device("alice", PHONE, 5)
        messages = [await phone.message(), await phone.message()]
        assert {(m.payload, m.qos) for m in messages} == {(b"x", 2), (b"y", 1)}


async def test_a_plugin_subscribes_a_device_that_was_never_seen(opening: Opening) -> None:
    """For the anonymous user of its client id; a filter that is refused makes no device."""
    async with opening() as broker:
        sender, view = await bob(broker), broker.server.api
        assert await view.add_subscription("denied", "denied/#", 1) == 0x80
        assert not broker.server.sessions.named("denied")
        await sender.publish("t", b"retained", retain=True)
        assert await view.add_subscription("sensor", "t", 1) == 1
        entries = await broker.server.storage.read_inbox("c/sensor", 0, 10)
        assert [(e.message.payload, e.target) for e in entries if e.message] == [(b"retained", "sensor")]
        with pytest.raises(ValueError, match="QoS 3"):
            await view.add_subscription("sensor", "t", 3)


async def test_a_session_that_ended_meanwhile_is_not_subscribed(opening: Opening) -> None:
    """The request's place is behind the end of the session."""
    async with opening() as broker:
        phone = await broker.device("alice", PHONE, 5)
        session = broker.server.sessions.named(PHONE)[0]
        broker.server.sessions.remove(session)
        caller = broker.caller("alice")
        phone.send(Subscribe(1, [("t", 1)]))
        answer = await caller.post(f"/devices/{PHONE}/subscriptions", json={"filter": "t"})
        assert answer.status_code == 404
        # Who asked before the end, and had the ACL's answer after it, has the session still.
        assert await broker.server.api.readers.subscribe_session(session, "t", 1, None) == ReasonCode.UNSPECIFIED_ERROR
        assert broker.server.trie.count == 0
