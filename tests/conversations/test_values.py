"""Drafts and settings: what one device of a user sets, all others have, those too that were away; and nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from broker.packets import ReasonCode
from broker.packets.model import PubAck, Publish
from tests.conversations.conftest import follows, group
from tests.http.conftest import Site


async def values(caller: httpx.AsyncClient, **params: Any) -> Any:
    answer = await caller.get("/me/values", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def put(caller: httpx.AsyncClient, key: str, value: Any) -> httpx.Response:
    return await caller.put(f"/me/values/{key}", json={"value": value})


def change(message: Publish) -> tuple[str, Any]:
    found = json.loads(message.payload)
    return found["key"], found["value"]


async def test_all_devices_of_a_user_hear_of_a_change_and_those_that_were_away(talk: Site) -> None:
    bob = talk.caller("bob")
    phone, away = await talk.device("bob", "phone"), await talk.device("bob", "pad")
    await away.drop()
    first = await put(bob, "draft/conv/a", {"text": "héllo", "at": 1.5})
    assert first.json()["seq"] == 1
    assert change(await phone.message()) == ("draft/conv/a", {"text": "héllo", "at": 1.5})
    await put(bob, "theme", "dark")
    pad = await talk.device("bob", "pad")
    assert [change(await pad.message()) for _ in range(2)] == [
        ("draft/conv/a", {"text": "héllo", "at": 1.5}),
        ("theme", "dark"),
    ]
    await put(bob, "draft/conv/a", None)
    told = await values(bob)
    assert (told["values"], told["last"], told["topic"]) == ({"theme": "dark"}, 3, first.json()["topic"])
    history = (await bob.get(f"/conversations/{told['topic']}/messages", params={"after": 2})).json()["messages"]
    assert [message["payload"] for message in history] == [{"key": "draft/conv/a", "value": None}]
    new = await talk.device("bob", "watch")
    await follows(bob, "watch", told["topic"])
    await put(bob, "theme", "light")
    assert change(await new.message()) == ("theme", "light")
    assert (await bob.get("/me/conversations")).json()["conversations"] == [], "it is no conversation"


async def test_a_device_changes_values_by_messages_and_what_is_none_is_refused(talk: Site) -> None:
    phone = await talk.device("bob", "phone", 5)
    assert await phone.subscribe("$sync/reply/phone", options=1) == [1]

    async def ask(**fields: Any) -> Any:
        await phone.publish("$sync/request", json.dumps(fields).encode(), qos=1)
        while not (message := await phone.message()).topic.startswith("$sync/"):
            pass
        return json.loads(message.payload)

    set_ = await ask(op="value-set", key="n", value=7)
    assert (set_["seq"], set_["value"]) == (1, 7)
    topic = set_["topic"]
    assert await phone.publish(topic, b'{"key": "n", "value": [8]}', qos=1) == 0
    assert change(await phone.message()) == ("n", [8])
    assert (await ask(op="values"))["values"] == {"n": [8]}
    for wrong in (
        b"",
        b"8",
        b'{"key": "n"}',
        b'{"key": "", "value": 1}',
        b'{"key": "n", "value": NaN}',
        b'{"key": 1, "value": 1}',
        b'{"key": "m", "key": "n", "value": 1}',
        b'{"key": "\\ud800", "value": 1}',
        b'{"key": "n", "value": "\\udfff"}',
        b'{"key": "n", "value": ' + b"[" * 101 + b"]" * 101 + b"}",
        b'{"key": "n", "value": ' + b"[" * 970 + b"]" * 970 + b"}",
        b'{"key": "n", "value": "' + b"x" * ((64 << 10) - 1) + b'"}',
    ):
        assert await phone.publish(topic, wrong, qos=1) == ReasonCode.PAYLOAD_FORMAT_INVALID, wrong
    assert (await ask(op="value-set", key="n" * 201, value=1))["error"]["status"] == 422
    assert (await ask(op="value-set", key="n", value="x" * (66 << 10)))["error"]["status"] == 422
    assert (await ask(op="value-set", key="n"))["error"]["detail"] == "value is missing"
    assert (await ask(op="values"))["values"] == {"n": [8]}


async def test_what_is_no_value_is_told_over_http(talk: Site) -> None:
    bob = talk.caller("bob")
    for body, told in (
        ('"\\ud800"', "U+D800 is half of a character"),
        ("NaN", "NaN and Infinity are no JSON"),
        ("-1e999", "NaN and Infinity are no JSON"),
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
        (json.dumps("x" * (64 << 10)), "value of 65538 bytes: at most 65536"),
        ('{"a": 1, "a": 2}', "a: given twice"),
    ):
        content = f'{{"value": {body}}}'.encode()
        answer = await bob.put("/me/values/n", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, told in answer.json()["detail"]) == (422, True), answer.text
    deep: Any = []
    for _ in range(99):
        deep = [deep]
    assert (await put(bob, "n", deep)).status_code == 200
    assert (await values(bob))["values"] == {"n": deep}


async def test_they_are_the_users_own(talk: Site) -> None:
    bob, eve = talk.caller("bob"), talk.caller("eve")
    topic = (await put(bob, "draft", "secret")).json()["topic"]
    ear = await talk.device("eve", "ear", 5)
    assert await ear.subscribe("#", options=1) == [1]
    await put(bob, "draft", "more")
    await ear.quiet()
    assert await ear.subscribe(topic) == [ReasonCode.NOT_AUTHORIZED]
    assert await ear.publish(topic, b'{"key": "draft", "value": 1}', qos=1) == ReasonCode.NOT_AUTHORIZED
    assert (await eve.get(f"/conversations/{topic}/messages")).status_code == 404
    assert (await values(eve))["values"] == {}
    assert (await values(eve))["topic"] != topic
    taken = await eve.post("/conversations", json={"kind": "group", "topic": topic})
    assert taken.status_code == 422
    assert (await values(bob))["values"] == {"draft": "more"}


async def test_of_many_changes_at_once_all_end_with_the_last_one(talk: Site) -> None:
    bob = talk.caller("bob")
    phone = await talk.device("bob", "phone")
    answers = await asyncio.gather(*(put(bob, "n", number) for number in range(10)))
    order = sorted((answer.json()["seq"], answer.json()["value"]) for answer in answers)
    assert [seq for seq, _ in order] == list(range(1, 11))
    assert [change(await phone.message())[1] for _ in range(10)] == [value for _, value in order]
    assert (await values(bob))["values"] == {"n": order[-1][1]}


async def test_there_are_so_many_and_they_come_in_pages(sites: Callable[..., AbstractAsyncContextManager[Site]]) -> None:
    async with sites(plugins={"conversations": {"max_values": 3}}) as made:
        bob = made.caller("bob")
        for key in "abc":
            assert (await put(bob, key, key)).status_code == 200
        full = await put(bob, "d", 1)
        assert (full.status_code, "3 values" in full.text) == (429, True)
        phone = await made.device("bob", "phone", 5)
        topic = (await values(bob))["topic"]
        assert await phone.publish(topic, b'{"key": "d", "value": 1}', qos=1) == ReasonCode.QUOTA_EXCEEDED
        assert await phone.publish(topic, b'{"key": "c", "value": 1}', qos=1) == 0
        assert (await put(bob, "c", 2)).status_code == (await put(bob, "a", None)).status_code == 200
        assert (await put(bob, "d", 1)).status_code == 200
        first = await values(bob, limit=2)
        assert (first["values"], first["next"]) == ({"b": "b", "c": 2}, "c")
        assert (await values(bob, after="c"))["values"] == {"d": 1}
        assert await group(bob)


async def test_so_many_that_come_at_once_count_too(sites: Callable[..., AbstractAsyncContextManager[Site]]) -> None:
    """Those of one group, which are stored together."""
    async with sites(plugins={"conversations": {"max_values": 3}}) as made:
        bob, phone = made.caller("bob"), await made.device("bob", "phone", 5)
        topic = (await values(bob))["topic"]
        async with made.held() as commits:
            phone.send(Publish("elsewhere", b"x", 1, packet_id=100))
            await commits.arrived()
            for number in range(1, 6):
                phone.send(Publish(topic, b'{"key": "%d", "value": 1}' % number, 1, packet_id=number))
            await phone.ping()
        codes = [(await phone.expect(PubAck)).reason for _ in range(6)]
        assert [code for code in codes if code >= 0x80] == [ReasonCode.QUOTA_EXCEEDED] * 2
        assert len((await values(bob))["values"]) == 3
