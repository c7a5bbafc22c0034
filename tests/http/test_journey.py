"""A user's two devices over MQTT and HTTP together: one timeline, one offset each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.http.conftest import Site
from tests.support import mongo_server
from tests.support.until import until


@pytest.fixture(params=["sqlite", "mongodb"])
async def users(
    request: pytest.FixtureRequest, sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path
) -> AsyncIterator[Site]:
    """Users, no topic plugin, on each backend that lasts."""
    database = mongo_server.new_database()
    url = mongo_server.url(database) if request.param == "mongodb" else f"sqlite:///{tmp_path}/t.db"
    async with sites(url) as made:
        yield made
    if request.param == "mongodb":
        await mongo_server.drop(database)


async def test_a_device_goes_from_mqtt_to_http_and_back_with_one_offset(users: Site) -> None:
    phone = await users.device("alice", "phone")
    laptop = await users.device("alice", "laptop")
    await laptop.subscribe("chat/#", options=1)
    await laptop.leave()
    for text in (b"one", b"two", b"three"):
        await phone.publish("chat/a", text, qos=1)

    http = users.caller("alice")
    page = (await http.get("/sync", params={"device": "laptop"})).json()
    assert [entry["message"]["payload"] for entry in page["entries"]] == ["one", "two", "three"]
    second = page["entries"][1]["offset"]
    answer = await http.post("/sync/ack", json={"device": "laptop", "epoch": page["epoch"], "offset": second})
    assert answer.json() == {"offset": second}

    laptop = await users.device("alice", "laptop")
    message = await laptop.message()
    assert message.payload == b"three"
    await laptop.quiet()
    late = await http.post("/sync/ack", json={"device": "laptop", "epoch": page["epoch"], "offset": second + 1})
    assert late.status_code == 409


async def test_a_filter_of_the_device_holds_over_http_too(users: Site) -> None:
    phone = await users.device("alice", "phone")
    laptop = await users.device("alice", "laptop")
    await phone.subscribe("#", options=1)
    await laptop.subscribe("chat/+", options=1)
    await laptop.leave()
    watch = await users.device("alice", "watch")
    await watch.publish("other", b"no", qos=1)
    await watch.publish("chat/a", b"yes", qos=1)
    http = users.caller("alice")
    page = (await http.get("/sync", params={"device": "laptop"})).json()
    assert [entry["message"]["topic"] for entry in page["entries"]] == ["chat/a"]
    assert page["next"] == page["head"] == 2


async def test_a_long_poll_answers_as_soon_as_something_is_due(users: Site) -> None:
    phone = await users.device("alice", "phone")
    laptop = await users.device("alice", "laptop")
    await laptop.subscribe("chat/#", options=1)
    await laptop.leave()
    http = users.caller("alice")
    polling = asyncio.create_task(http.get("/sync", params={"device": "laptop", "wait": 30}))
    await until(lambda: bool(users.server.delivery.watched))
    await phone.publish("chat/a", b"now", qos=1)
    async with asyncio.timeout(30):
        page = (await polling).json()
    assert page["entries"][0]["message"]["payload"] == "now"


async def test_a_stream_gives_entries_and_ends_when_mqtt_takes_the_device(users: Site) -> None:
    phone = await users.device("alice", "phone")
    laptop = await users.device("alice", "laptop")
    await laptop.subscribe("chat/#", options=1)
    await laptop.leave()
    await phone.publish("chat/a", b"one", qos=1)
    http = users.caller("alice")
    events: list[str] = []
    headers = {"Accept": "text/event-stream"}
    async with asyncio.timeout(30), http.stream("GET", "/sync", params={"device": "laptop"}, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                events.append(line[7:])
            if line.startswith("id: ") and line.endswith(".1"):
                await phone.publish("chat/a", b"two", qos=1)
            if line.startswith("id: ") and line.endswith(".2"):
                await users.device("alice", "laptop")
    assert events == ["claim", "message", "message", "superseded"]


async def test_an_offset_set_back_gives_a_connected_device_everything_again(users: Site) -> None:
    phone = await users.device("alice", "phone")
    laptop = await users.device("alice", "laptop")
    await laptop.subscribe("chat/#", options=1)
    for text in (b"one", b"two", b"three"):
        await phone.publish("chat/a", text, qos=1)
    assert [m.payload for m in await laptop.messages(3)] == [b"one", b"two", b"three"]
    http = users.caller("alice")
    async with asyncio.timeout(30):  # its acknowledgements are on their way: only then is 1 further back
        while (await http.get("/devices/laptop")).json()["offset"] < 3:
            pass
    assert (await http.put("/devices/laptop/offset", json={"offset": 1})).json() == {"offset": 1}
    assert [m.payload for m in await laptop.messages(2)] == [b"two", b"three"]
    await laptop.quiet()
    assert (await http.put("/devices/laptop/offset", json={"offset": 99})).status_code == 422
    assert (await http.get("/devices/laptop")).json()["head"] == 3


async def test_set_back_reaches_what_was_there_before_a_filter(users: Site) -> None:
    phone = await users.device("alice", "phone")
    await phone.subscribe("chat/#", options=1)
    watch = await users.device("alice", "watch")
    await watch.publish("chat/a", b"early", qos=1)
    laptop = await users.device("alice", "laptop")
    await laptop.subscribe("chat/#", options=1)
    await laptop.quiet()
    http = users.caller("alice")
    await http.put("/devices/laptop/offset", json={"offset": 0})
    assert (await laptop.message()).payload == b"early"


async def test_a_message_posted_over_http_reaches_mqtt_and_history(users: Site) -> None:
    phone = await users.device("alice", "phone")
    await phone.subscribe("chat/#", options=1)
    http = users.caller("alice")
    body = {"payload": {"text": "héllo"}, "encoding": "json"}
    first = await http.post("/conversations/chat/a/messages", json=body, headers={"Idempotency-Key": "k1"})
    again = await http.post("/conversations/chat/a/messages", json=body, headers={"Idempotency-Key": "k1"})
    other = await http.post("/conversations/chat/a/messages", json={"payload": "x"}, headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json()
    assert (await phone.message()).payload == '{"text":"héllo"}'.encode()
    await phone.quiet()
    history = (await http.get("/conversations/chat/a/messages")).json()
    assert [m["payload"] for m in history["messages"]] == [{"text": "héllo"}]
    assert history["messages"][0]["id"] == first.json()["id"]
    one = await http.get(first.headers["location"].removeprefix("/v1"))
    assert one.json()["content_type"] == "application/json"
    raw = await http.get(first.headers["location"].removeprefix("/v1") + "/payload")
    assert raw.content == '{"text":"héllo"}'.encode()


async def test_reading_on_one_device_reaches_the_others(users: Site) -> None:
    phone = await users.device("alice", "phone")
    await phone.subscribe("chat/#", options=1)
    assert await phone.subscribe("$sync/events/phone") == [0]
    http = users.caller("alice")
    for number in range(3):
        await http.post("/conversations/chat/a/messages", json={"payload": str(number)})
    await phone.messages(3)
    mine = (await http.get("/conversations")).json()["conversations"]
    assert [(c["topic"], c["last"], c["unread"]) for c in mine] == [("chat/a", 3, 3)]
    assert (await http.put("/conversations/chat/a/position", json={"position": 2})).json()["unread"] == 1
    event = await phone.message()
    assert event.topic == "$sync/events/phone"
    assert b'"position": 2' in event.payload
    left = (await http.get("/conversations/chat/a/messages", params={"after": 2})).json()["messages"]
    assert len(left) == 1
