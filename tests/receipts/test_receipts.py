"""The sender of a message is told how far it is, and whoever may ask is told who has it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from broker.clock import ServerTime
from broker.packets.model import PubAck
from broker.packets.properties import Property
from tests.http.conftest import Site, site
from tests.receipts.conftest import RECEIPTS
from tests.support.until import until
from tests.support.wire import Client


def asking(*levels: str, **more: str) -> dict[Any, Any]:
    return {Property.USER_PROPERTY: [("tideline-receipt", ",".join(levels)), *more.items()]}


async def reader(site: Site, name: str, *filters: str, qos: int = 1) -> Client:
    client = await site.durable(name, 5)
    await client.subscribe(*(filters or ("chat/#",)), options=qos)
    return client


async def sender(site: Site, name: str = "phone") -> Client:
    client = await site.durable(name, 5)
    assert await client.subscribe(f"$sync/receipts/{name}") == [0]
    return client


async def told(client: Client) -> dict[str, Any]:
    message = await client.message()
    assert message.topic.startswith("$sync/receipts/")
    event: dict[str, Any] = json.loads(message.payload)
    return event


async def ledger(site: Site, message_id: str, **params: Any) -> Any:
    answer = await site.caller().get(f"/messages/{message_id}/ledger", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def states(site: Site, message_id: str) -> list[tuple[str, str | None]]:
    holders = (await ledger(site, message_id))["holders"]
    return [(device["state"], device["reason"]) for holder in holders for device in holder["devices"]]


async def test_a_sender_is_told_what_is_delivered_acknowledged_and_read(broker: Site) -> None:
    phone = await sender(broker)
    bob = await reader(broker, "bob")
    await phone.publish("chat/a", b"hello", 1, properties=asking("delivered", "acknowledged", "read", **{"message-id": "m1"}))
    stored = await told(phone)
    assert (stored["event"], stored["state"], stored["count"], stored["of"]) == ("receipt", "stored", 1, 1)
    assert (stored["message_id"], stored["topic"], stored["seq"]) == ("m1", "chat/a", 1)
    delivered = await told(phone)
    assert (delivered["state"], delivered["count"], delivered["of"], delivered["users"]) == ("delivered", 1, 1, ["c/bob"])
    await bob.message()
    assert (await told(phone))["state"] == "acknowledged"
    await bob.publish("$sync/request", b'{"op": "read", "topic": "chat/a", "position": 1}', 1)
    assert (await told(phone))["state"] == "read"


async def test_the_ledger_tells_each_device_and_since_when(broker: Site) -> None:
    phone = await sender(broker)
    bob, eve = await reader(broker, "bob"), await reader(broker, "eve", "chat/+")
    await reader(broker, "later", "other/#")
    await phone.publish("chat/a", b"hello", 1, properties=asking("delivered"))
    message_id = (await told(phone))["message"]
    await bob.message()
    await bob.ping()
    await eve.message(finish=False)
    http = broker.caller()
    (await http.put("/conversations/chat/a/position", json={"position": 1}, params={"user": "c/eve"})).raise_for_status()

    async def timed() -> bool:
        found = await ledger(broker, message_id)
        (device,) = found["holders"][0]["devices"]
        return bool(device["acknowledged"]) and bool(found["holders"][1]["read_at"])

    await until(timed)
    page = await ledger(broker, message_id)
    assert [holder["user"] for holder in page["holders"]] == ["c/bob", "c/eve"]
    bobs, eves = page["holders"]
    (device,) = bobs["devices"]
    assert (device["device"], device["connected"], device["state"], device["qos"]) == ("bob", True, "acknowledged", 1)
    assert page["time"] <= device["acknowledged"]["after"] <= device["acknowledged"]["until"]
    assert (bobs["entry"], bobs["read"], eves["read"]) == (1, False, True)
    assert eves["devices"][0]["state"] == "delivered"
    assert eves["devices"][0]["acknowledged"] is None
    assert page["counts"] == {
        "users": {"stored": 2, "delivered": 2, "acknowledged": 1, "read": 1},
        "devices": {"due": 2, "delivered": 2, "acknowledged": 1, "not_due": 0},
        "groups": {"stored": 0, "acknowledged": 0},
    }
    assert page["next"] is None
    first = await ledger(broker, message_id, limit=1)
    rest = await ledger(broker, message_id, limit=1, after=first["next"])
    assert [h["user"] for h in first["holders"] + rest["holders"]] == ["c/bob", "c/eve"]


async def test_of_a_user_with_many_devices_some_are_told_and_all_are_counted(sites: Any) -> None:
    async with sites(plugins={"receipts": {}}) as site:
        for number in range(52):
            await (await site.device("bob", f"sensor-{number:02}", 4)).subscribe("chat/#", options=1)
        said = (await site.caller("alice").post("/conversations/chat/a/messages", json={"payload": "x"})).json()["id"]
        for asked, told in (({}, 50), ({"devices": 2}, 2), ({"devices": 60}, 52)):
            page = (await site.caller("alice").get(f"/messages/{said}/ledger", params=asked)).json()
            (holder,) = page["holders"]
            assert (len(holder["devices"]), holder["more_devices"]) == (told, 52 - told)
            assert page["counts"]["devices"]["due"] == 52
        phone = await site.device("alice", "phone", 5)
        await phone.subscribe("$sync/reply/phone", options=1)
        await phone.publish("$sync/request", json.dumps({"op": "ledger", "message": said, "devices": 3}).encode(), 1)
        assert json.loads((await phone.message()).payload)["holders"][0]["more_devices"] == 49


async def test_a_page_lists_so_many_devices_of_all_its_users_together(sites: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.receipts.service.MOST_DEVICES", 5)
    async with sites(plugins={"receipts": {}}) as site:
        for user in ("alice", "bob", "eve"):
            for number in range(4):
                await (await site.device(user, f"{user}-{number}", 4)).subscribe("chat/#", options=1)
        said = (await site.caller("alice").post("/conversations/chat/a/messages", json={"payload": "x"})).json()["id"]
        page = (await site.caller("alice").get(f"/messages/{said}/ledger")).json()
        assert [(len(holder["devices"]), holder["more_devices"]) for holder in page["holders"]] == [(4, 0), (1, 3), (0, 4)]
        assert page["counts"]["devices"]["due"] == 12


async def test_a_device_that_it_is_not_due_to_is_told_with_the_reason(sites: Any) -> None:
    async with sites(plugins={"receipts": {}}) as site:
        phone = await site.device("alice", "phone", 5)
        await phone.subscribe("chat/#", options=1 | 0x04)
        for name, filter_ in (("laptop", "chat/a"), ("watch", "home/#")):
            device = await site.device("alice", name, 5)
            await device.subscribe(filter_, options=1)
        await phone.publish("chat/a", b"hello", 1)
        late = await site.device("alice", "late", 5)
        await late.subscribe("chat/#", options=1 | 0x20)
        (message,) = (await site.caller("alice").get("/conversations/chat/a/messages")).json()["messages"]
        page = (await site.caller("alice").get(f"/messages/{message['id']}/ledger")).json()
        (alice,) = page["holders"]
        reasons = {device["device"]: (device["state"], device["reason"]) for device in alice["devices"]}
        assert reasons == {
            "laptop": ("delivered", None),
            "late": ("not_due", "since"),
            "phone": ("not_due", "own"),
            "watch": ("not_due", "filter"),
        }


async def test_one_that_expired_before_its_device_came_was_never_delivered() -> None:
    later = 0.0
    async with site(plugins=RECEIPTS, time=ServerTime(uptime=lambda: time.monotonic() + later)) as broker:
        phone, bob = await sender(broker), await reader(broker, "bob")
        await bob.leave()
        await phone.publish("chat/a", b"soon over", 1, properties={**asking("delivered"), Property.MESSAGE_EXPIRY: 100})
        message_id = (await told(phone))["message"]
        assert await states(broker, message_id) == [("stored", None)]
        later = 101
        assert await states(broker, message_id) == [("not_due", "expired")]


async def test_who_may_see_what(sites: Any) -> None:
    async with sites(plugins={"receipts": {}}) as site:
        bob = await site.device("bob", "tablet", 5)
        await bob.subscribe("chat/#", options=1)
        phone = await site.device("alice", "phone", 5)
        await phone.publish("chat/a", b"hello", 1)
        (message,) = (await site.caller("alice").get("/conversations/chat/a/messages")).json()["messages"]
        path = f"/messages/{message['id']}"
        seen = {}
        for user in ("alice", "bob", "eve"):
            http = site.caller(user)
            seen[user] = [(await http.get(f"{path}/{what}")).status_code for what in ("ledger", "counts")]
        assert seen == {"alice": [200, 200], "bob": [403, 200], "eve": [404, 404]}
        counts = (await site.caller("bob").get(f"{path}/counts")).json()
        assert counts["counts"]["users"]["stored"] == 1
        assert "holders" not in counts
        assert (await site.caller("alice").get(f"{path}/ledger", params={"after": "no place"})).status_code == 422
        assert (await site.caller("alice").get("/messages/0000000000000001/counts")).status_code == 404


async def test_a_device_asks_over_mqtt(broker: Site) -> None:
    phone = await sender(broker)
    await reader(broker, "bob")
    await phone.publish("chat/a", b"hello", 1, properties=asking("read"))
    message_id = (await told(phone))["message"]
    await phone.subscribe("$sync/reply/phone")
    for op in ("counts", "ledger"):
        await phone.publish("$sync/request", json.dumps({"op": op, "message": message_id}).encode(), 0)
        answer = json.loads((await phone.message()).payload)
        assert answer["counts"]["users"]["delivered"] == 1, answer
        assert ("holders" in answer) == (op == "ledger")


async def test_a_receipt_that_there_is_not_is_refused(broker: Site) -> None:
    phone = await sender(broker)
    assert await phone.publish("chat/a", b"x", 1, properties=asking("seen")) == 0x83
    assert await broker.server.storage.conversation_bounds("chat/a") == (1, 0)
    http = broker.caller()
    wrong = await http.post("/messages", json={"topic": "chat/a", "payload": "x", "receipt": ["seen"]})
    assert wrong.status_code == 422


async def test_what_is_published_over_http_asks_in_a_field(sites: Any) -> None:
    async with sites(plugins={"receipts": {}}) as site:
        phone = await site.device("alice", "phone", 5)
        await phone.subscribe("$sync/receipts/phone")
        bob = await site.device("bob", "tablet", 5)
        await bob.subscribe("chat/#", options=1)
        body = {"topic": "chat/a", "payload": "hello", "receipt": ["acknowledged"]}
        sent = (await site.caller("alice").post("/messages", json=body)).json()
        stored = await told(phone)
        assert (stored["state"], stored["message"]) == ("stored", sent["id"])
        await bob.message()
        assert (await told(phone))["state"] == "acknowledged"


async def test_only_the_device_itself_may_listen_to_its_receipts(broker: Site) -> None:
    eve = await broker.client("eve", 5)
    assert await eve.subscribe("$sync/receipts/phone", "$sync/receipts/+", "$sync/receipts/eve") == [0x87, 0x87, 0]


async def test_a_large_group_is_counted_in_pages_and_told_in_one(sites: Any, tmp_path: Any) -> None:
    policies = [{"filter": "group/#", "mode": "sync", "fanout": "read"}]
    persistence = {"persistence": {"url": f"sqlite:///{tmp_path}/t.db", "policies": policies}}
    async with sites(plugins={"receipts": {}, **persistence}) as site:
        phone = await site.device("alice", "phone", 5)
        await phone.subscribe("$sync/receipts/phone")
        readers = []
        for user, name in (("bob", "b1"), ("bob", "b2"), ("eve", "e1")):
            client = await site.device(user, name, 5)
            await client.subscribe("group/a", options=1)
            readers.append(client)
        await phone.publish("group/a", b"to all", 1, properties=asking("acknowledged"))
        stored = await told(phone)
        assert stored["of"] is None
        for client in readers:
            (packet,) = [await client.message(finish=False)]
            client.send(PubAck(packet.packet_id))
            await client.ping()
        last = await told(phone)
        while last["count"] < 2:
            last = await told(phone)
        assert (last["state"], last["count"], last["of"]) == ("acknowledged", 2, 2)
        http = site.caller("alice")
        page = (await http.get(f"/messages/{stored['message']}/ledger", params={"limit": 1})).json()
        (bob,) = page["holders"]
        assert (bob["user"], bob["channel"], len(bob["devices"])) == ("u/bob", "group/#", 2), "one's devices are on one page"


async def test_in_a_large_group_those_are_counted_whom_it_is_due_to() -> None:
    """The channel's other members are told with the reason, and the sender does not wait for them."""
    policies = [{"filter": "group/#", "mode": "sync", "fanout": "read"}]
    async with site(plugins={**RECEIPTS, "persistence": {"url": "memory://", "policies": policies}}) as made:
        phone = await sender(made)
        await reader(made, "bob", "group/a", "chat/a")
        await reader(made, "eve", "group/b")
        await phone.publish("group/a", b"to some", 1, properties=asking("delivered"))
        message_id = (await told(phone))["message"]
        delivered = await told(phone)
        assert (delivered["count"], delivered["of"]) == (1, 1)
        await reader(made, "later", "group/#")
        page = await ledger(made, message_id)
        reasons = {holder["user"]: holder["devices"][0]["reason"] for holder in page["holders"]}
        assert reasons == {"c/bob": None, "c/eve": "filter", "c/later": "since"}
        assert page["counts"] == {
            "users": {"stored": 1, "delivered": 1, "acknowledged": 0, "read": 0},
            "devices": {"due": 1, "delivered": 1, "acknowledged": 0, "not_due": 0},
            "groups": {"stored": 0, "acknowledged": 0},
        }
