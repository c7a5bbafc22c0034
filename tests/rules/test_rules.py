"""Rules: what they change before a message is stored, what they do once it is, and that a fault of one stops nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from broker.config import checked
from broker.errors import StartError
from broker.packets import Property, ReasonCode
from broker.packets.model import PubAck, Publish
from plugins.rules import RulesPlugin
from plugins.rules.republish import HOPS
from storage.errors import StorageUnavailable
from tests.http.conftest import HTTP, site
from tests.support.broker import ANONYMOUS, Broker, running
from tests.support.cluster import cluster
from tests.support.laws_process import broker_process
from tests.support.storages import url
from tests.support.until import until
from tests.support.wire import Client
from tests.webhooks.receiver import SECRET, Receiver

__all__ = ["url"]

NOBODY = {"tests.support.laws_auth.NameIsPassword": False, "tests.support.laws_auth.ForbiddenTopics": False}
HOT = '{"celsius":31.5,"id":7}'


def rules(*found: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"rules": {"rules": list(found), **options}}


def plugin_of(broker: Broker) -> RulesPlugin:
    plugin = broker.server.api.plugin(RulesPlugin)
    assert plugin is not None
    return plugin


def counts(broker: Broker, name: str) -> dict[str, Any]:
    return next(state for state in plugin_of(broker).states() if state["name"] == name)


async def answered(client: Client, topic: str, payload: bytes, properties: Any = None) -> PubAck:
    """What an MQTT 5 publisher is told."""
    client.send(Publish(topic, payload, 1, packet_id=7, properties=properties or {}))
    return await client.expect(PubAck)


# --- before the store ----------------------------------------------------------------------------------------------------


async def test_a_message_gets_its_topic_and_payload_before_it_has_recipients() -> None:
    """One rule after the other; who has a filter for the new topic gets it, also retained, and for the old one nobody."""
    where = "@.payload.celsius > 30 && @.qos == 1 && @.user == null"
    move = {"name": "move", "topics": ["raw/#"], "where": where, "topic": "hot/{rest}/{payload.id}"}
    mark = {"name": "mark", "topics": ["hot/#"], "set": {"by": "{client}", "was": "{payload.celsius}", "at": ["{levels[-1]}"]}}
    async with running(plugins=rules(move, mark)) as broker:
        new, old = await broker.client("new"), await broker.client("old")
        await new.subscribe("hot/#", options=1)
        await old.subscribe("raw/#", options=1)
        publisher = await broker.client("sensor")
        for payload in (HOT, '{"celsius":20}', "[31"):
            await publisher.publish("raw/a", payload.encode(), retain=True)
        message = await new.message()
        assert message.topic == "hot/a/7"
        assert json.loads(message.payload) == {"celsius": 31.5, "id": 7, "by": "sensor", "was": 31.5, "at": ["7"]}
        assert [(await old.message()).payload for _ in range(2)] == [b'{"celsius":20}', b"[31"]
        late = await broker.client("late")
        await late.subscribe("#", options=1)
        assert {(found.topic, found.retain) for found in await late.messages(2)} == {("hot/a/7", True), ("raw/a", True)}
        assert (counts(broker, "move")["matched"], counts(broker, "move")["not_json"]) == (1, 1)


async def test_a_fault_of_a_rule_is_counted_and_stops_nothing() -> None:
    """What it would have changed goes on as it was: a place that is not there, a level that is none, one that is too large, a
    payload that is too deep, or no object."""
    lost = {"name": "lost", "topics": ["lost"], "topic": "x/{payload.id}"}
    deep = {"name": "deep", "topics": ["deep"], "where": "count(@..id) > 0", "set": {"a": 1}}
    grown = {"name": "grown", "topics": ["grown"], "set": {"twice": "{payload}"}}
    long = {"name": "long", "topics": ["long"], "topic": "a" + "/a" * 300}
    plugins = {**HTTP, **rules(lost, deep, grown, long, max_payload=1000)}
    async with site(plugins=plugins) as broker:
        reader, publisher = await broker.client("reader"), await broker.client("publisher")
        await reader.subscribe("#", options=1)
        sent = [("lost", b"{}"), ("lost", b'{"id":"a/b"}'), ("lost", b'{"id":[]}'), ("deep", b"[" * 300 + b"]" * 300)]
        sent += [("grown", b'{"x":"%s"}' % (b"y" * 700)), ("long", b""), ("deep", b"[7]"), ("deep", b"{" * 2000)]
        for topic, payload in sent:
            await publisher.publish(topic, payload)
        assert [(found.topic, found.payload) for found in await reader.messages(len(sent))] == sent
        faults = {
            name: (counts(broker, name)["faults"], counts(broker, name)["not_json"]) for name in ("lost", "deep", "grown")
        }
        assert faults == {"lost": (3, 0), "deep": (1, 1), "grown": (1, 0)}
        assert counts(broker, "long")["faults"] == 1
        await publisher.publish("lost", b'{"id":"\\ud800"}')
        assert (await reader.message()).topic == "lost"
        assert counts(broker, "lost")["faults"] == 4
        await publisher.publish("grown", b'{"x":"\\ud800"}')
        assert (await reader.message()).payload == b'{"x":"\\ud800","twice":{"x":"\\ud800"}}'
        text = (await broker.caller().get(f"{broker.url}/metrics")).text
        assert 'tideline_rule_messages_total{name="lost",result="faults"} 4.0' in text
        states = (await broker.caller().get("/rules")).json()["rules"]
        assert [state["name"] for state in states] == ["lost", "deep", "grown", "long"]


async def test_the_publisher_must_be_allowed_the_topic_that_a_rule_leads_to() -> None:
    """Over MQTT and over HTTP; the other rules' messages of the same group are stored."""
    may = {"rules": [{"allow": "publish", "topics": ["in/#", "open/#"]}, {"allow": "read", "topics": "#"}]}
    led = {"name": "led", "topics": ["in/#"], "topic": "{payload.to}/{rest}"}
    async with site(plugins={"acl": may, **rules(led)}) as broker:
        reader, publisher = await broker.client("reader"), await broker.client("publisher", 5)
        await reader.subscribe("#", options=1)
        assert (await answered(publisher, "in/1", b'{"to":"shut"}')).reason == ReasonCode.NOT_AUTHORIZED
        assert (await answered(publisher, "in/1", b'{"to":"open"}')).reason == 0
        caller = broker.caller()
        for to, status in (("shut", 403), ("open", 201)):
            body = {"topic": "in/2", "payload": {"to": to}, "encoding": "json"}
            answer = await caller.post("/messages", json=body, params={"user": "u/somebody"})
            assert answer.status_code == status, answer.text
        assert [found.topic for found in await reader.messages(2)] == ["open/1", "open/2"]
        assert broker.server.counters.acl_denied == 2


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_a_repeat_is_known_by_what_was_sent(url: str, tmp_path: Path) -> None:
    """The rule makes another payload of it each time; another content under the same id is still refused."""
    timed = {"name": "timed", "topics": ["t"], "set": {"at": "{time}"}}
    async with running(url.replace("sqlite", f"sqlite:///{tmp_path}/t.db"), plugins=rules(timed)) as broker:
        publisher = await broker.client("publisher", 5)
        properties = {Property.USER_PROPERTY: [("message-id", "1")]}
        first = await answered(publisher, "t", b'{"n":1}', properties)
        assert first.reason == ReasonCode.NO_MATCHING_SUBSCRIBERS
        (stored,) = await broker.server.storage.read_conversation("t", after=0, limit=10)
        await until(lambda: broker.server.time.wall() > stored.time)
        again = dict((await answered(publisher, "t", b'{"n":1}', properties)).properties[Property.USER_PROPERTY])
        assert (again["seq"], again["duplicate"]) == ("1", "true")
        other = await answered(publisher, "t", b'{"n":2}', properties)
        assert other.reason == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR


# --- once it is stored ---------------------------------------------------------------------------------------------------


async def test_what_is_stored_is_published_again_with_its_properties_and_not_in_a_circle() -> None:
    there = {"name": "there", "topics": ["a/#"], "where": "@.client != 'shy'", "republish": "b/{rest}", "retain": True}
    back = {"name": "back", "topics": ["b/#"], "republish": "a/{rest}"}
    async with running(plugins=rules(there, back, hops=3)) as broker:
        reader = await broker.client("reader", 5)
        await reader.subscribe("#", options=1)
        shy = await broker.client("shy")
        await shy.publish("a/0", b"mine")
        publisher = await broker.client("publisher", 5)
        properties: dict[int, Any] = {
            Property.CONTENT_TYPE: "x",
            Property.USER_PROPERTY: [("k", "v")],
            Property.MESSAGE_EXPIRY: 900,
        }
        await publisher.publish("a/1", b"hello", properties=properties)
        found = await reader.messages(5)
        assert [message.topic for message in found] == ["a/0", "a/1", "b/1", "a/1", "b/1"]
        assert found[2].properties[Property.USER_PROPERTY] == [("k", "v"), (HOPS, "1")]
        assert found[2].properties[Property.CONTENT_TYPE] == "x"
        assert 800 < found[2].properties[Property.MESSAGE_EXPIRY] <= 900
        await until(lambda: counts(broker, "back")["loops"] == 1)
        page = await broker.server.storage.read_conversation("b/1", after=0, limit=10)
        assert [message.user for message in page] == ["b/rule/there"] * 2
        late = await broker.client("late")
        await late.subscribe("#", options=1)
        assert (await late.message()).topic == "b/1"


async def test_what_is_published_again_after_a_crash_is_stored_once(tmp_path: Path) -> None:
    """The copies are durable, and where the rule is was not stored behind them: as after a crash in between."""
    copy = {"name": "copy", "topics": ["a/+"], "republish": "b/{levels[1]}"}
    async with running(f"sqlite:///{tmp_path}/t.db", plugins=rules(copy)) as broker:
        (republisher,) = plugin_of(broker)._runners
        await until(lambda: republisher.place.running)
        reader, publisher = await broker.client("reader"), await broker.client("publisher")
        await reader.subscribe("b/#", options=1)
        failed, real = asyncio.Event(), republisher.place.save

        async def save() -> None:
            republisher.place.save = real  # type: ignore[method-assign]
            failed.set()
            republisher.place.give_up()  # it begins again at the place that is stored
            raise StorageUnavailable("killed")

        republisher.place.save = save  # type: ignore[method-assign]
        await publisher.publish("a/1", b"first")
        await asyncio.wait_for(failed.wait(), 60)
        await publisher.publish("a/2", b"second")
        assert [message.payload for message in await reader.messages(2)] == [b"first", b"second"]
        assert (await broker.server.storage.conversation_bounds("b/1"))[1] == 1


async def test_nothing_is_lost_nor_doubled_by_a_kill(tmp_path: Path, url: str) -> None:
    copy = {"name": "copy", "topics": ["a"], "republish": "b"}
    plugins = {**NOBODY, **ANONYMOUS, **rules(copy)}
    with broker_process(tmp_path, url, plugins=plugins) as broker:
        reader = await Client.open(("127.0.0.1", broker.port))
        await reader.connect("reader", clean=False)
        await reader.subscribe("b", options=1)
        await reader.publish("a", b"0")
        assert (await reader.message()).payload == b"0"  # from here on the rule's place is stored
        publisher = await Client.open(("127.0.0.1", broker.port))
        await publisher.connect("publisher")
        for number in range(1, 120):
            await publisher.publish("a", b"%d" % number)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        reader = await Client.open(("127.0.0.1", broker.port))
        await reader.connect("reader", clean=False)
        payloads: list[bytes] = []
        while not payloads or payloads[-1] != b"119":
            message = await reader.message()
            if message.payload not in payloads:  # a device may be given again what it had not acknowledged
                payloads.append(message.payload)
        assert [payload for payload in payloads if payload != b"0"] == [b"%d" % number for number in range(1, 120)]
        publisher = await Client.open(("127.0.0.1", broker.port))
        await publisher.connect("publisher")
        await publisher.publish("a", b"last")
        while (message := await reader.message()).payload != b"last":
            pass
    async with running(url) as after:
        assert (await after.server.storage.conversation_bounds("b"))[1] == 121


async def test_a_rules_webhook_is_told_of_what_the_rule_means() -> None:
    async with Receiver() as receiver:
        hook = {"url": receiver.url, "secrets": [SECRET], "timeout": 60}
        told = {"name": "told", "topics": ["t/#"], "where": "@.payload.alarm", "webhook": hook}
        receiver.answers = [500]
        async with running(plugins=rules(told)) as broker:
            await until(lambda: plugin_of(broker)._runners[0].place.running)
            publisher = await broker.client("publisher")
            for payload in (b'{"alarm":1}', b"{}", b"no", b'{"alarm":2}'):
                await publisher.publish("t/1", payload)
            await publisher.publish("other", b'{"alarm":3}')
            await receiver.told(2)
            assert list(map(str, receiver.payloads())) == ["{'alarm': 1}", "{'alarm': 2}"]
            assert receiver.ids[0] == receiver.ids[1]
            assert (counts(broker, "told")["matched"], counts(broker, "told")["not_json"]) == (2, 1)


async def test_in_a_cluster_each_node_changes_and_one_publishes_again() -> None:
    move = {"name": "move", "topics": ["raw/#"], "topic": "hot/{rest}"}
    copy = {"name": "copy", "topics": ["hot/#"], "republish": "copies/{rest}"}
    async with cluster(2, plugins=rules(move, copy)) as made:
        one, other = made.nodes
        await until(lambda: any(_runs(node) for node in made.nodes))
        reader = await other.client("reader")
        await reader.subscribe("hot/#", "copies/#", options=1)
        for node in made.nodes:
            await (await node.client(f"publisher-{node.address[1]}")).publish("raw/1", b"x")
        assert sorted(message.topic for message in await reader.messages(4)) == ["copies/1"] * 2 + ["hot/1"] * 2
        assert (await one.storage.conversation_bounds("copies/1"))[1] == 2


def _runs(node: Broker) -> bool:
    return any(runner.place.running for runner in plugin_of(node)._runners)


# --- what is wrong with one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "name: rule r: does nothing: it needs topic, set, republish or webhook"),
        ({"topics": [], "topic": "x"}, "rule r: must be 1 to 100 topic filters"),
        ({"topics": ["a#"], "topic": "x"}, "rule r: "),
        ({"topics": ["$SYS/#"], "topic": "x"}, r"rule r: '\$SYS/#': must not begin with"),
        ({"topic": "x", "republish": "y"}, "topic: rule r: topic and set act before .*: make two rules"),
        ({"topic": "x", "where": "@.payload.a >"}, "rule r: '@.payload.a >': .*right is such as"),
        ({"topic": "x", "where": "@.payload.a = 1"}, "rule r: "),
        ({"topic": "x", "where": "@.paylod.a == 1"}, "rule r: .*a message has no 'paylod'; it has topic"),
        ({"topic": "x", "where": "match(@.topic, 'a.*')"}, "rule r: .*match"),
        ({"topic": "x", "where": "@..a && @..b"}, r"rule r: .*one '\.\.'"),
        ({"topic": "x", "where": "@.payload[0,0][0,0]"}, "rule r: .*no list of selectors"),
        ({"topic": "x", "where": "@.qos == 1] [?@.qos == 1"}, "rule r: .*one condition"),
        ({"topic": "x", "where": "@.qos" + " && @.qos" * 200}, "rule r: .*at most 1000"),
        ({"topic": "x/{payload.a"}, "rule r: .*braces"),
        ({"topic": "x/{payload.*}"}, "rule r: .*may name several values"),
        ({"topic": "x/{temp}"}, "rule r: .*a message has no 'temp'"),
        ({"topic": "$delayed/2/{rest}"}, r"topic: rule r: '\$delayed/2/{rest}': must not .*later; right is .*'moved/{rest}'"),
        (
            {"topic": "$SYS/{rest}"},
            r"topic: rule r: '\$SYS/{rest}': must not begin with '\$': that is for the broker; right is",
        ),
        ({"republish": "$share/{rest}"}, r"republish: rule r: '\$share/{rest}': must not begin .* who subscribes"),
        ({"republish": "$delayed/1/f/{rest}"}, r"republish: rule r: '\$delayed/1/f/{rest}': must not begin with"),
        ({"republish": "x/#"}, "republish: rule r: 'x/#': a topic holds no '#'"),
        ({"set": {"a": "{"}}, "rule r: .*braces"),
        ({"set": {"a": [float("inf")]}}, "rule r: .*inf: must be a JSON value"),
        ({"republish": "t"}, "republish: rule r: 't' is among its own topics"),
        ({"topic": "x", "retain": True}, "rule r: is for what republish publishes"),
        ({"webhook": {"url": "http://x/", "secrets": []}}, "webhook: rule r: secrets: at least one"),
        ({"webhook": {"url": "http://x/", "secrets": [SECRET], "events": ["client.connected"]}}, "no message"),
        ({"webhook": {"url": "http://x/", "secrets": [SECRET], "name": "mine"}}, "rules.0..webhook.name: 'mine': leave it out"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told) as error:
        checked("plugins.rules.RulesPlugin", {"rules": [{"name": "r", "topics": ["t"], **options}]})
    assert SECRET not in str(error.value)


def test_a_name_may_be_given_once() -> None:
    rule = {"name": "r", "topics": ["t"], "topic": "x"}
    with pytest.raises(StartError, match="rules: r: a name may be given once"):
        checked("plugins.rules.RulesPlugin", {"rules": [rule, rule]})
