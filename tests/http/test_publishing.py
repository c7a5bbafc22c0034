"""`POST /v1/messages`: one message or a list, as durable, as ordered and as permitted as over MQTT."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from broker.packets import Property
from tests.http.conftest import ACL, Site


async def test_one_message_with_all_that_mqtt_5_has(tour: Site) -> None:
    device = await tour.client("device", 5)
    await device.subscribe("a/#", options=2)
    sent = {
        "topic": "a/b",
        "payload": base64.b64encode(b"\x00\xff").decode(),
        "encoding": "base64",
        "qos": 2,
        "retain": True,
        "expiry": 3600,
        "content_type": "application/x",
        "response_topic": "answers/1",
        "correlation_data": base64.b64encode(b"\x01").decode(),
        "properties": [["k", "1"], ["k", "2"]],
    }
    answer = await tour.caller().post("/messages", json=sent)
    assert answer.status_code == 201
    receipt = answer.json()
    assert (receipt["topic"], receipt["seq"], receipt["state"]) == ("a/b", 1, "stored")
    assert answer.headers["location"] == f"/v1/messages/{receipt['id']}"
    message = await device.message()
    assert (message.topic, message.payload, message.qos) == ("a/b", b"\x00\xff", 2)
    properties = message.properties
    assert properties[Property.CONTENT_TYPE] == "application/x"
    assert properties[Property.RESPONSE_TOPIC] == "answers/1"
    assert properties[Property.CORRELATION_DATA] == b"\x01"
    assert list(properties[Property.USER_PROPERTY]) == [("k", "1"), ("k", "2")]
    assert 3500 < properties[Property.MESSAGE_EXPIRY] <= 3600
    late = await tour.client("late", 5)
    await late.subscribe("a/b", options=1)
    assert (await late.message()).retain


async def test_a_list_keeps_its_order_and_each_is_answered(
    sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path
) -> None:
    """Also where one may not be published: it is refused alone. The rights are those of MQTT."""
    acl = {ACL: {"publish_acl": {"alice": ["ok/#"]}, "acl": {"alice": ["#"]}}}
    async with sites(f"sqlite:///{tmp_path}/t.db", acl) as site:
        phone = await site.device("alice", "phone")
        await phone.subscribe("#", options=1)
        http = site.caller("alice")
        batch: list[dict[str, Any]] = [{"topic": "ok/a", "payload": str(n), "message_id": f"k{n}"} for n in range(100)]
        batch[50]["topic"] = "forbidden"
        answer = await http.post("/messages", json=batch)
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result["status"] for result in results] == [201] * 50 + [403] + [201] * 49
        assert results[50]["error"]["type"] == "urn:tideline:forbidden"
        stored = [result for result in results if result["status"] == 201]
        assert [result["seq"] for result in stored] == list(range(1, 100))
        assert [(await phone.message()).payload for _ in range(99)] == [b"%d" % n for n in range(100) if n != 50]
        # Sent again: nothing is stored twice, and a name with another content is told.
        batch[0]["payload"] = "other"
        again = (await http.post("/messages", json=batch)).json()["results"]
        assert [result["status"] for result in again] == [409] + [200] * 49 + [403] + [200] * 49
        assert [result["id"] for result in again[1:50]] == [result["id"] for result in results[1:50]]
        assert (await http.post("/messages", json={"topic": "forbidden", "payload": ""})).status_code == 403
        assert (await site.caller().post("/messages", json={"topic": "ok/a", "payload": ""})).status_code == 401


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        ([], {}, "body: [] needs at least one item"),
        ([{"topic": "a", "payload": ""}] * 501, {}, "body: "),
        ([{"topic": "a", "payload": "", "pay": 1}], {}, "pay: unknown field, did you mean 'payload'"),
        ([{"topic": "a", "payload": ""}, {"topic": "b", "payload": "?", "encoding": "base64"}], {}, "body.1.payload"),
        ([{"topic": "a", "payload": ""}], {"Idempotency-Key": "k"}, "message_id"),
        ({"topic": "a", "payload": "", "message_id": "x"}, {"Idempotency-Key": "k"}, "differ"),
        ({"payload": ""}, {}, "topic"),
        ({"topic": "a/#", "payload": ""}, {}, "wildcard"),
        ({"topic": "a", "payload": "", "response_topic": "b/+"}, {}, "response_topic"),
        ({"topic": "a", "payload": "", "correlation_data": "?"}, {}, "correlation_data"),
        (7, {}, "body"),
    ],
)
async def test_what_cannot_be_published_is_told_and_nothing_is(
    tour: Site, body: object, headers: dict[str, str], told: str
) -> None:
    http = tour.caller()
    answer = await http.post("/messages", json=body, headers=headers)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert (await http.get("/conversations")).json()["conversations"] == []
