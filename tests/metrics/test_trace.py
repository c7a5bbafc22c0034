"""Following one client, user or topic."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from broker.cli.ask import RunningBroker
from broker.cli.settings import Failure
from broker.cli.trace import _worker
from broker.config import Settings
from broker.packets import Property, Publish
from broker.packets.model import ConnAck, Connect, PubAck, SubAck, Subscribe, Will
from broker.trace import WAITING, Trace
from tests.cli.test_commands import tideline
from tests.http.conftest import HTTP, Site, passwords, site, sites, tour, users
from tests.support.until import until

__all__ = ["passwords", "sites", "tour", "users"]

Sites = Callable[..., AbstractAsyncContextManager[Site]]
Events = list[dict[str, Any]]


@asynccontextmanager
async def following(made: Site, secret: str = "", **query: Any) -> AsyncIterator[Events]:
    """A trace that has begun; the list grows as events come."""
    events: Events = []

    async def read(answer: httpx.Response) -> None:
        async for line in answer.aiter_lines():
            events.extend([json.loads(line)] if line else [])

    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    async with made.caller(headers=headers).stream("GET", "/trace", params=query) as answer:
        assert answer.status_code == 200
        reading = asyncio.create_task(read(answer))
        await until(lambda: made.server.tracer is not None and events)
        yield events
        reading.cancel()


def packets(events: Events) -> list[tuple[str, str]]:
    return [(event["event"], event.get("packet", "")) for event in events[1:]]


async def test_a_client(tour: Site) -> None:
    """All of what it sends and gets, in order, and no payload; of others only what concerns it."""
    async with following(tour, client="phone") as events:
        phone = await tour.durable("phone", 5, will=Will("w", b"secret-will"), properties={Property.TOPIC_ALIAS_MAXIMUM: 5})
        await phone.subscribe("a/#", options=1)
        other = await tour.client("other")
        await other.publish("a/b", b"secret-payload")
        for _ in range(2):
            phone.send(Publish("x/y" if _ == 0 else "", b"secret", 0, properties={Property.TOPIC_ALIAS: 1}))
        await phone.message()
        await phone.publish("x", b"secret-too", 2)
        await phone.leave()
        await until(lambda: events[-1]["event"] == "closed")
    sent, received = "sent", "received"
    assert packets(events)[:4] == [(received, "CONNECT"), (sent, "CONNACK"), (received, "SUBSCRIBE"), (sent, "SUBACK")]
    assert packets(events)[-2:] == [(received, "DISCONNECT"), ("closed", "")]
    about = {(event["event"], event.get("packet", ""), event.get("topic", "")): event for event in events}
    assert {("received", "PUBLISH", "x/y"), ("stored", "", "x/y"), ("sent", "PUBREC", "x")} <= set(about)
    delivered = about["sent", "PUBLISH", "a/b"]
    assert (delivered["qos"], delivered["size"], delivered["client"], delivered["user"]) == (1, 14, "phone", "c/phone")
    assert about["received", "PUBACK", "a/b"]["packet_id"] == delivered["packet_id"]
    assert about["received", "PUBCOMP", ""] if ("received", "PUBCOMP", "") in about else about["sent", "PUBCOMP", "x"]
    assert about["received", "CONNECT", ""]["will"] == {"topic": "w", "qos": 0, "size": 11}
    stored = about["stored", "", "x"]
    assert (stored["seq"], stored["inboxes"], len(stored["id"])) == (1, 0, 16)
    assert "secret" not in json.dumps(events)
    assert {event.get("client") for event in events[1:]} == {"phone"}
    await until(lambda: tour.server.tracer is None and tour.server.publish_path.tracer is None)


async def test_what_comes_in_one_piece_with_connect_is_the_same_clients(tour: Site) -> None:
    trace = Trace(client="phone")
    tour.server.traces.begin(trace)
    phone = await tour.socket(4)
    phone.send(Connect("phone", 4), Subscribe(1, [("a", 1)]))
    await phone.expect(ConnAck)
    await phone.expect(SubAck)
    assert [event["packet"] for event in trace.taken()] == ["CONNECT", "SUBSCRIBE", "CONNACK", "SUBACK"]
    tour.server.traces.end(trace)


async def test_acknowledgements_that_come_in_one_piece_are_told_one_by_one(tour: Site) -> None:
    trace = Trace(client="phone")
    phone = await tour.durable("phone")
    tour.server.traces.begin(trace)
    phone.send(PubAck(1), PubAck(2), PubAck(3))
    await phone.ping()
    assert [event["packet"] for event in trace.taken()] == ["PUBACK"] * 3 + ["PINGREQ", "PINGRESP"]
    tour.server.traces.end(trace)


def test_a_worker_is_asked_at_its_own_port() -> None:
    found = RunningBroker("https://127.0.0.1:8080", "secret", "cert.pem")
    settings = Settings.model_validate({"plugins": {"http": {"node_bind": "0.0.0.0:9464"}}})
    assert _worker(settings, found, 3) == RunningBroker("https://127.0.0.1:9466", "secret", "cert.pem")
    with pytest.raises(Failure, match="--worker needs"):
        _worker(Settings(), found, 1)


async def test_a_topic_with_payloads(tour: Site) -> None:
    """Whoever publishes to it and gets it, what is stored of it, and the acknowledgements of both."""
    device = await tour.durable("device")
    await device.subscribe("#", options=1)
    async with following(tour, topic="a/+", payloads="true") as events:
        assert events[0]["payloads"] is True
        publisher = await tour.client("publisher")
        await publisher.publish("b", b"not this")
        await publisher.publish("a/b", b"\xff\x00")
        await publisher.publish("a/c", "grüße".encode())
        await device.messages(3)
        await until(lambda: packets(events).count(("received", "PUBACK")) == 2)
    told = [(event.get("client"), event["event"], event.get("packet", ""), event["topic"]) for event in events[1:]]
    for topic in ("a/b", "a/c"):
        assert [one[:3] for one in told if one[3] == topic] == [
            ("publisher", "received", "PUBLISH"),
            ("publisher", "stored", ""),
            ("publisher", "sent", "PUBACK"),
            ("device", "sent", "PUBLISH"),
            ("device", "received", "PUBACK"),
        ]
    assert {topic for *_, topic in told} == {"a/b", "a/c"}
    first, second = (event for event in events if event["event"] == "received" and event["packet"] == "PUBLISH")
    assert (first["payload_base64"], second["payload"]) == ("/wA=", "grüße")


async def test_a_user_of_all_devices(users: Site, sites: Sites) -> None:
    """And where a message for the user is in the inbox. Whoever is no operator may not."""
    eve = users.caller("eve")
    assert (await eve.get("/trace", params={"client": "x"})).status_code == 403
    assert (await users.caller().get("/trace", params={"client": "x"})).status_code == 401
    trace = Trace(user="u/alice")
    users.server.traces.begin(trace)
    one = await users.device("alice", "one")
    await one.subscribe("a", options=1)
    bob = await users.device("bob", "two")
    await bob.publish("a", b"1")
    await one.message()
    events = trace.taken()
    users.server.traces.end(trace)
    assert {event["client"] for event in events if event["event"] != "stored"} == {"one"}
    stored = [event for event in events if event["event"] == "stored"]
    assert [(event["user"], event["inbox_seq"]) for event in stored] == [("u/bob", 1)]
    assert events[0]["packet"] == "CONNECT"
    assert events[0]["password"] is True
    assert "alice-password" not in json.dumps(events)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "client, user or topic: one of them must say what is traced"),
        ({"topic": "a/#/b"}, "'#' must be the whole last level"),
        ({"topic": "$share/g/a"}, r"without \$share/"),
        ({"user": "alice"}, "must be u/<user name> or c/<client id>"),
        ({"client": "a", "for": "0"}, "for: '0' must be"),
    ],
)
async def test_what_cannot_be_followed_is_told(tour: Site, query: dict[str, str], said: str) -> None:
    answer = await tour.caller().get("/trace", params=query)
    assert answer.status_code == 422
    assert re.search(said, answer.json()["detail"])


async def test_so_many_at_once(tour: Site) -> None:
    traces = [Trace(client="a") for _ in range(10)]
    for trace in traces:
        tour.server.traces.begin(trace)
    assert (await tour.caller().get("/trace", params={"client": "a"})).status_code == 429
    for trace in traces:
        tour.server.traces.end(trace)
    assert tour.server.tracer is None


async def test_it_ends_with_the_secret_that_began_it(tmp_path: Path) -> None:
    plugins = {"http": {**HTTP["http"], "operator_file": str(tmp_path / "operator.json")}}
    async with site(plugins=plugins) as made:
        secret = tmp_path / "operator.secret"
        async with following(made, secret.read_text().strip(), client="phone") as events:
            secret.write_text("another secret of the operator's".replace(" ", "-"))
            await made.server.reload()
            await until(lambda: events[-1]["event"] == "ended")
        assert events[-1]["why"] == "the token is unknown, expired or revoked"


def test_what_a_slow_reader_misses_is_counted_in_its_place() -> None:
    trace = Trace(client="a")
    for number in range(WAITING + 3):
        trace.put({"time": "", "event": str(number)})
    assert [event["event"] for event in trace.taken()] == [str(number) for number in range(WAITING)]
    trace.put({"time": "", "event": "next"})
    assert [(event["event"], event.get("count")) for event in trace.taken()] == [("left_out", 3), ("next", None)]
    assert trace.left_out_in_all == 3


async def test_the_command(tmp_path: Path) -> None:
    """It ends when the broker does."""
    operator = str(tmp_path / "operator.json")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"plugins": {"http": {"operator_file": operator}}}))
    async with site(plugins={"http": {**HTTP["http"], "operator_file": operator}}) as made:
        command = asyncio.create_task(asyncio.to_thread(tideline, "trace", "--client", "phone", "--for", "1h", "-c", config))
        await until(lambda: made.server.tracer)
        phone = await made.client("phone")
        await phone.publish("a", b"secret")
    done = await command
    assert done.exit_code == 0, done.output
    lines = [line.partition(" ")[2] if line[:1].isdigit() else line for line in done.output.splitlines()]
    assert lines[0].startswith("tracing client='phone'")
    assert any(line.startswith("received PUBLISH client='phone' user='c/phone'") and "size=6" in line for line in lines)
    assert any(line.startswith("stored client='phone'") and "seq=1" in line for line in lines)
    assert lines[-1] == "ended left_out=0"
    assert "secret" not in done.output
    assert tideline("trace").exit_code == 2
