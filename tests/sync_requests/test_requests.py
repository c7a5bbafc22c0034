"""Requests over plain MQTT: answered to the device that asked, to nobody else, and stored nowhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from amqtt.plugins.base import BasePlugin

from broker.hooks import Request
from broker.packets.model import PubComp, Publish, PubRec, PubRel
from broker.packets.properties import Properties, Property
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind, add_requests
from plugins.timelines import NotFound, Who
from tests.http.conftest import Site, site
from tests.support.wire import Client


@pytest.fixture(params=[4, 5], ids=["v3.1.1", "v5"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
async def broker() -> AsyncIterator[Site]:
    async with site(plugins={}) as made:
        yield made


async def listening(broker: Site, client_id: str, version: int = 4) -> Client:
    client = await broker.durable(client_id, version)
    assert await client.subscribe(f"$sync/reply/{client_id}", options=1) == [1]
    return client


async def ask(client: Client, client_id: str, **fields: Any) -> Any:
    await client.publish("$sync/request", json.dumps(fields).encode(), qos=1)
    answer = await client.message()
    assert answer.topic == f"$sync/reply/{client_id}"
    return json.loads(answer.payload)


async def test_history_both_ways_and_by_cursor(broker: Site, version: int) -> None:
    phone = await listening(broker, "phone", version)
    for number in range(5):
        await phone.publish("chat/a", str(number).encode(), qos=1)
    newest = await ask(phone, "phone", op="history", id=7, topic="chat/a", limit=2)
    assert (newest["id"], newest["op"], newest["last"]) == (7, "history", 5)
    assert [m["payload"] for m in newest["messages"]] == ["4", "3"]
    older = await ask(phone, "phone", op="history", topic="chat/a", limit=2, cursor=newest["next"])
    assert [m["payload"] for m in older["messages"]] == ["2", "1"]
    forward = await ask(phone, "phone", op="history", topic="chat/a", after=3)
    assert [m["payload"] for m in forward["messages"]] == ["3", "4"]
    assert forward["next"] is None
    start = await ask(phone, "phone", op="history", topic="chat/a", after=0, limit=2)
    assert [m["payload"] for m in start["messages"]] == ["0", "1"]


async def test_a_request_sees_what_was_published_before_it(broker: Site) -> None:
    phone = await listening(broker, "phone")
    await phone.publish("chat/a", b"just now", qos=0)
    answer = await ask(phone, "phone", op="history", topic="chat/a")
    assert [m["payload"] for m in answer["messages"]] == ["just now"]


async def test_mqtt_5_answers_go_to_the_response_topic_with_the_correlation(broker: Site) -> None:
    phone = await broker.client("phone", 5)
    await phone.subscribe("answers/here", options=1)
    properties: Properties = {Property.RESPONSE_TOPIC: "answers/here", Property.CORRELATION_DATA: b"\x00\x01"}
    assert await phone.publish("$sync/request", b'{"op": "conversations"}', qos=1, properties=properties) == 0
    answer = await phone.message()
    assert answer.topic == "answers/here"
    assert answer.properties[Property.CORRELATION_DATA] == b"\x00\x01"
    assert json.loads(answer.payload)["conversations"] == []


async def test_nobody_else_hears_an_answer_or_sees_a_request(broker: Site) -> None:
    eve = await broker.client("eve")
    for filter_ in ("$sync/reply/phone", "$sync/#", "$sync/+/phone", "$sync/request", "$share/g/$sync/reply/eve"):
        assert await eve.subscribe(filter_) == [0x80], filter_
    await eve.subscribe("#")
    phone = await listening(broker, "phone")
    await phone.publish("chat/a", b"x", qos=1)
    assert (await eve.message()).payload == b"x"
    await ask(phone, "phone", op="history", topic="chat/a")
    await eve.quiet()
    assert await broker.server.storage.conversation_bounds("$sync/request") == (1, 0)


async def test_a_device_reads_only_conversations_of_its_user(broker: Site) -> None:
    phone = await broker.client("phone")
    await phone.publish("secret", b"x", qos=1)
    eve = await listening(broker, "eve")
    for fields in (
        {"op": "history", "topic": "secret"},
        {"op": "position", "topic": "secret"},
        {"op": "read", "topic": "secret", "position": 1},
        {"op": "history", "topic": "nothing-there"},
    ):
        answer = await ask(eve, "eve", **fields)
        assert answer["error"]["status"] == 404, fields
    assert (await ask(eve, "eve", op="conversations"))["conversations"] == []


async def test_sync_from_an_offset_and_set_back(broker: Site) -> None:
    sender = await broker.client("sender")
    phone = await listening(broker, "phone")
    await phone.subscribe("chat/#", options=1)
    for number in range(3):
        await sender.publish("chat/a", str(number).encode(), qos=1)
    await phone.messages(3)
    page = await ask(phone, "phone", op="sync", after=1)
    assert [entry["message"]["payload"] for entry in page["entries"]] == ["1", "2"]
    assert page["head"] == 3
    await phone.publish("$sync/request", b'{"op": "set-offset", "offset": 2}', qos=1)
    got = [(m.topic, m.payload) for m in await phone.messages(2)]
    assert ("chat/a", b"2") in got
    assert any(topic == "$sync/reply/phone" and b'"offset":2' in payload for topic, payload in got)


async def test_an_answer_waits_for_a_device_that_comes_back_to_listen(broker: Site) -> None:
    asking = await broker.client("phone")
    await asking.publish("chat/a", b"x", qos=1)
    await asking.publish("$sync/request", b'{"op": "history", "topic": "chat/a"}', qos=1)
    await asking.leave()
    back = await listening(broker, "phone")
    assert json.loads((await back.message()).payload)["last"] == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"null",
        b'{"op": 5}',
        b'{"op": "history"}',
        b'{"op": "history", "topic": 1}',
        b'{"op": "history", "topic": "a/+"}',
        b'{"op": "history", "topic": ""}',
        b'{"op": "history", "topic": "\\u0000"}',
        b'{"op": "history", "topic": "\\ud800"}',
        b'{"op": "history", "topic": "a", "limit": 100000}',
        b'{"op": "history", "topic": "a", "after": -1}',
        b'{"op": "history", "topic": "a", "after": true}',
        b'{"op": "history", "topic": "a", "cursor": "z"}',
        b'{"op": "sync"}',
        b'{"op": "sync", "after": 1e400}',
        b'{"op": "set-offset", "offset": 999}',
        b'{"op": "set-offset", "offset": 0, "device": "other"}',
        b'{"op": "read", "topic": "a", "position": 1, "back": 1}',
        b'{"op": "message", "message": "zz"}',
        b'{"op": "search", "topic": "a"}',
        b"[" * 100000,
    ],
)
async def test_a_bad_request_is_answered_with_what_is_wrong(broker: Site, payload: bytes) -> None:
    phone = await listening(broker, "phone")
    await phone.publish("$sync/request", payload, qos=1)
    answer = json.loads((await phone.message()).payload)
    assert 400 <= answer["error"]["status"] < 500 or answer["error"]["name"] == "unavailable", answer


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b'{"op": "history", "topic": "a", "aftr": 1}', "aftr: unknown field, did you mean 'after'?"),
        (b'{"op": "device", "user": "u/eve"}', "user: unknown field; there is device"),
        (b'{"op": "history", "topic": "a", "limit": 0}', "limit: 0 must be a whole number of 1 to 500"),
        (b'{"op": "history", "topic": "a", "after": "1"}', "after: '1' must be a whole number"),
        (b'{"op": "history", "topic": "a", "topic": "b"}', "topic: given twice"),
        (b'{"op": "history"}', "topic is missing"),
        (b'{"op": "histry"}', "op 'histry': must be one of history, message"),
        (b'{"topic": "a"}', "op is missing"),
        (b'{"op": "conversations", "id": [1]}', "id: a list must be a number, or text"),
        (b'{"op": "read", "topic": "a", "position": 1, "back": 1}', "back: 1 must be true or false"),
    ],
)
async def test_what_a_request_does_not_take_is_refused_by_name(broker: Site, payload: bytes, told: str) -> None:
    phone = await listening(broker, "phone")
    await phone.publish("$sync/request", payload, qos=1)
    error = json.loads((await phone.message()).payload)["error"]
    assert error["status"] == 422
    assert told in error["detail"]


async def test_qos_2_requests_are_answered_once(broker: Site, version: int) -> None:
    phone = await listening(broker, "phone", version)
    phone.send(Publish("$sync/request", b'{"op": "conversations"}', 2, False, False, 77, {}))
    await phone.expect(PubRec)
    assert b'"conversations":[]' in (await phone.message()).payload
    phone.send(Publish("$sync/request", b'{"op": "conversations"}', 2, False, True, 77, {}))
    await phone.expect(PubRec)
    phone.send(PubRel(77))
    await phone.expect(PubComp)
    await phone.quiet()


async def test_channels_of_large_groups_are_named_and_read() -> None:
    policies = [{"filter": "group/#", "mode": "sync", "fanout": "read"}]
    async with site(plugins={"persistence": {"url": "memory://", "policies": policies}}) as broker:
        phone = await listening(broker, "phone")
        await phone.subscribe("group/a", options=1)
        reader = await broker.durable("reader")
        await reader.subscribe("group/#", options=1)
        writer = await broker.client("writer")
        for number, topic in enumerate(("group/a", "group/b", "group/a")):
            await writer.publish(topic, b"%d" % number, qos=1)
        assert {message.payload for message in await phone.messages(2)} == {b"0", b"2"}
        answer = await ask(phone, "phone", op="sync", after=0)
        assert answer["entries"] == []
        (channel,) = answer["channels"]
        assert (channel["channel"], channel["head"]) == ("group/#", 3)
        page = await ask(phone, "phone", op="sync", after=1, channel="group/#")
        assert [(entry["offset"], entry["message"]["payload"]) for entry in page["entries"]] == [(3, "2")]
        assert (page["next"], page["first"], page["head"]) == (3, 1, 3)
        for wrong, status in (("other/#", 404), (7, 422)):
            assert (await ask(phone, "phone", op="sync", after=0, channel=wrong))["error"]["status"] == status


class Greeter(BasePlugin[Any]):
    """A plugin with a kind of request of its own."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        add_requests(context, {"greet": Kind(self._greet, ("name",))})

    async def _greet(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        if asked.text("name") == "nobody":
            raise NotFound("there is nobody")
        return {"greeting": f"hello {asked.text('name')}, from {request.device.client_id} of {who.user}"}


async def test_another_plugin_answers_its_own_kinds_of_requests() -> None:
    async with site(plugins={f"{__name__}.Greeter": {}}) as broker:
        phone = await listening(broker, "phone")
        greeted = await ask(phone, "phone", op="greet", id=1, name="ann")
        assert greeted == {"id": 1, "op": "greet", "greeting": "hello ann, from phone of c/phone"}
        assert (await ask(phone, "phone", op="greet", name="nobody"))["error"]["name"] == "not-found"
        assert "did you mean 'name'" in (await ask(phone, "phone", op="greet", nam="ann"))["error"]["detail"]
        assert "greet" in (await ask(phone, "phone", op="great"))["error"]["detail"]
