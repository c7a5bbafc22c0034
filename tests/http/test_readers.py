"""One device, one offset: claims, takeovers, and what was in flight when the offset moved."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiomqtt
import pytest

from broker.packets.model import Disconnect, PubAck, PubComp, Publish, PubRec, PubRel
from broker.sessions.window import Window
from storage.errors import StorageUnavailable
from tests.http.conftest import Site
from tests.support.until import until


async def prepared(site: Site, count: int = 3, qos: int = 1) -> Any:
    """A laptop with a filter, gone, and that many messages for it."""
    laptop = await site.device("alice", "laptop")
    await laptop.subscribe("chat/#", options=2)
    await laptop.leave()
    sender = await site.device("bob", "sender")
    for number in range(1, count + 1):
        await sender.publish("chat/a", str(number).encode(), qos=qos)
    return sender


async def test_a_new_claim_ends_the_older_one(users: Site) -> None:
    await prepared(users)
    http = users.caller("alice")
    first = (await http.get("/sync", params={"device": "laptop"})).json()
    second = (await http.get("/sync", params={"device": "laptop"})).json()
    assert second["epoch"] > first["epoch"]
    assert second["entries"] == first["entries"]
    ack = {"device": "laptop", "offset": 3}
    assert (await http.post("/sync/ack", json={**ack, "epoch": first["epoch"]})).status_code == 409
    assert (await http.get("/sync", params={"device": "laptop", "epoch": first["epoch"]})).status_code == 409
    assert (await http.post("/sync/ack", json={**ack, "epoch": second["epoch"]})).json() == {"offset": 3}
    assert (await http.post("/sync/ack", json={**ack, "epoch": second["epoch"], "offset": 1})).json() == {"offset": 3}
    assert (await http.post("/sync/ack", json={**ack, "epoch": second["epoch"], "offset": 4})).status_code == 422


async def test_a_connection_ends_the_claim_before_it_also_when_it_is_over(users: Site) -> None:
    await prepared(users)
    http = users.caller("alice")
    page = (await http.get("/sync", params={"device": "laptop"})).json()
    laptop = await users.device("alice", "laptop")
    await laptop.leave()

    async def gone() -> bool:
        return not (await http.get("/devices/laptop")).json()["connected"]

    await until(gone)
    ack = {"device": "laptop", "epoch": page["epoch"], "offset": 3}
    assert (await http.post("/sync/ack", json=ack)).status_code == 409
    assert (await http.get("/devices/laptop")).json()["offset"] == 0


async def test_a_connected_device_is_read_beside_and_taken_only_when_asked(users: Site) -> None:
    await prepared(users)
    laptop = await users.device("alice", "laptop", 5)
    await laptop.messages(3)
    http = users.caller("alice")
    beside = (await http.get("/sync", params={"device": "laptop", "after": 0})).json()
    assert beside["epoch"] is None
    assert len(beside["entries"]) == 3
    assert (await http.get("/devices/laptop")).json()["connected"] is True
    taken = (await http.get("/sync", params={"device": "laptop", "takeover": True})).json()
    assert taken["epoch"]
    assert any(isinstance(packet, Disconnect) for packet in await laptop.closed())


async def test_the_offset_survives_a_restart(sites: Any, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with sites(url) as made:
        await prepared(made)
        http = made.caller("alice")
        page = (await http.get("/sync", params={"device": "laptop"})).json()
        await http.post("/sync/ack", json={"device": "laptop", "epoch": page["epoch"], "offset": 2})
    async with sites(url) as made:
        device = (await made.caller("alice").get("/devices/laptop")).json()
        assert (device["offset"], device["head"], device["lag"]) == (2, 3, 1)
        laptop = await made.device("alice", "laptop")
        assert (await laptop.message()).payload == b"3"


async def claimed(http: Any) -> dict[str, Any] | None:
    """The page of a reader that has the laptop, once the connection before it has ended."""
    page: dict[str, Any] = (await http.get("/sync", params={"device": "laptop"})).json()
    return page if page["epoch"] else None


async def test_what_was_in_flight_over_mqtt_is_acknowledged_over_http(users: Site) -> None:
    await prepared(users)
    laptop = await users.device("alice", "laptop")
    for _ in range(3):
        await laptop.expect(Publish)  # never acknowledged
    await laptop.drop()
    http = users.caller("alice")
    page = await until(lambda: claimed(http))
    assert page is not None
    assert page["offset"] == 0
    await http.post("/sync/ack", json={"device": "laptop", "epoch": page["epoch"], "offset": 2})
    laptop = await users.device("alice", "laptop")
    again = await laptop.expect(Publish)
    assert (again.payload, again.dup) == (b"3", True)
    laptop.send(PubAck(again.packet_id))
    await laptop.quiet()


async def test_a_qos_2_exchange_is_ended_after_its_message_was_acknowledged_over_http(users: Site) -> None:
    await prepared(users, 1, qos=2)
    laptop = await users.device("alice", "laptop")
    publish = await laptop.expect(Publish)
    assert publish.qos == 2
    laptop.send(PubRec(publish.packet_id))
    await laptop.expect(PubRel)
    await laptop.drop()
    http = users.caller("alice")
    page = await until(lambda: claimed(http))
    assert page is not None
    answer = await http.post("/sync/ack", json={"device": "laptop", "epoch": page["epoch"], "offset": 1})
    assert answer.json() == {"offset": 1}
    laptop = await users.device("alice", "laptop")
    assert (await laptop.expect(PubRel)).packet_id == publish.packet_id
    laptop.send(PubComp(publish.packet_id))
    await laptop.quiet()


async def test_a_set_back_under_unacknowledged_messages(users: Site) -> None:
    await prepared(users)
    laptop = await users.device("alice", "laptop")
    old = [await laptop.expect(Publish) for _ in range(3)]
    laptop.send(*(PubAck(p.packet_id) for p in old[:2]))
    await laptop.ping()
    http = users.caller("alice")
    await http.put("/devices/laptop/offset", json={"offset": 0})
    again = [await laptop.expect(Publish) for _ in range(3)]
    assert [p.payload for p in again] == [b"1", b"2", b"3"]
    assert old[2].packet_id not in {p.packet_id for p in again}
    laptop.send(PubAck(old[2].packet_id))
    await laptop.ping()
    assert (await http.get("/devices/laptop")).json()["offset"] == 0
    laptop.send(*(PubAck(p.packet_id) for p in again))
    await laptop.ping()
    assert (await http.get("/devices/laptop")).json()["offset"] == 3


async def test_an_offset_set_forward_skips(users: Site) -> None:
    await prepared(users)
    http = users.caller("alice")
    assert (await http.put("/devices/laptop/offset", json={"offset": 2})).json() == {"offset": 2}
    laptop = await users.device("alice", "laptop")
    assert (await laptop.message()).payload == b"3"
    await laptop.quiet()


async def test_a_device_made_and_subscribed_over_http(users: Site) -> None:
    http = users.caller("alice")
    assert (await http.get("/sync", params={"device": "web"})).json()["entries"] == []
    added = await http.post("/devices/web/subscriptions", json={"filter": "chat/#"})
    assert added.json()["subscriptions"] == [{"filter": "chat/#", "qos": 1, "since": 0}]
    await users.caller("bob").post("/conversations/chat/a/messages", json={"payload": "hi"})
    page = (await http.get("/sync", params={"device": "web"})).json()
    assert [e["message"]["payload"] for e in page["entries"]] == ["hi"]
    web = await users.device("alice", "web")
    assert (await web.message()).payload == b"hi"
    await web.leave()
    assert (await http.request("DELETE", "/devices/web/subscriptions", params={"filter": "chat/#"})).status_code == 204
    assert (await http.delete("/devices/web")).status_code == 204
    assert (await http.get("/devices")).json() == {"devices": [], "next": None}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("a/#/b", "topic filter 'a/#/b': '#' must be the whole last level"),
        ("a+", "topic filter 'a+': '+' must be a whole level"),
        ("$share/g", "shared subscription '$share/g' needs a filter after its share name"),
        ("/" * 200, "has too many levels, 128 at most"),
    ],
)
async def test_what_is_wrong_with_a_filter_is_told(users: Site, wrong: str, told: str) -> None:
    http = users.caller("alice")
    await http.get("/sync", params={"device": "web"})
    answer = await http.post("/devices/web/subscriptions", json={"filter": wrong})
    assert (answer.status_code, told in answer.json()["detail"]) == (422, True), answer.text


async def test_a_stock_client_asks_and_is_answered(users: Site) -> None:
    host, port = users.address
    who: dict[str, Any] = {"username": "alice", "password": "alice-password"}
    async with asyncio.timeout(30), aiomqtt.Client(host, port, identifier="phone", clean_session=False, **who) as phone:
        await phone.subscribe("$sync/reply/phone", qos=1)
        await phone.publish("chat/a", "hello", qos=1)
        await phone.publish("$sync/request", json.dumps({"op": "history", "topic": "chat/a", "id": "q"}), qos=1)
        async for message in phone.messages:
            answer = json.loads(message.payload)
            break
    assert (answer["id"], [m["payload"] for m in answer["messages"]]) == ("q", ["hello"])
    history = (await users.caller("alice").get("/conversations/chat/a/messages")).json()
    assert history["messages"] == answer["messages"]


@pytest.mark.parametrize("through", [0, 1, 2, 3])
def test_settled_messages_hold_no_offset(through: int) -> None:
    window = Window(10)
    ids = [window.take(1, 1), window.take(2, 2), window.take(3, 1)]
    window.disconnected()
    window.settle(through)
    assert window.offset(3) == through
    for packet_id, qos in zip(ids, (1, 2, 1), strict=True):
        if window.find(packet_id) is not None and qos == 1:
            window.acknowledge(packet_id)
        elif window.find(packet_id) is not None:
            window.release(packet_id)
            window.complete(packet_id)
    assert window.offset(3) == 3
    assert not len(window)


async def test_a_stream_ends_with_a_word_where_storage_is_away(users: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await prepared(users, 1)

    async def away(user: str) -> tuple[int, int]:
        raise StorageUnavailable("the test says so")

    stream = users.caller("alice").stream("GET", "/sync?device=laptop", headers={"Accept": "text/event-stream"})
    async with stream as response:
        lines = response.aiter_lines()
        while await anext(lines) != "event: message":
            pass
        monkeypatch.setattr(users.server.storage, "inbox_bounds", away)
        rest = [line async for line in lines]
    problem = rest[rest.index("event: problem") + 1]
    assert json.loads(problem.removeprefix("data: ")) == {"status": 503, "detail": "the test says so"}
