"""Publishers are told the truth about each message, in either kind of handshake; 3.1.1 has no words and keeps its message."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.access import PUBLISH
from broker.connection.connection import Connection
from broker.hooks import Group, GroupPlugin, Refusal
from broker.packets.codes import ReasonCode as R
from broker.packets.model import Disconnect, PubAck, Publish, PubRec
from broker.packets.properties import Properties, Property
from tests.support.broker import Broker, running
from tests.support.until import until
from tests.support.wire import Client

MEMORY = 1 << 20
"""Bytes that the storage holds in all: a larger message can never be stored."""


class Bouncer(GroupPlugin):
    """Does with a message what its payload says, unless it is lenient."""

    lenient = False

    async def before_ack(self, group: Group) -> None:
        for append in () if self.lenient else group.appends:
            if append.message.payload == b"quota":
                append.error = Refusal("alice has sent enough for today", R.QUOTA_EXCEEDED)
            elif append.message.payload == b"format":
                append.error = Refusal("not JSON", R.PAYLOAD_FORMAT_INVALID)
            elif append.message.payload == b"crash":
                raise RuntimeError("the password is sesame")


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    rules = [{"allow": "all", "topics": "#"}, {"deny": "publish", "topics": "forbidden/#"}]
    plugins: dict[str, dict[str, object]] = {f"{__name__}.Bouncer": {}, "acl": {"rules": rules}}
    async with running(plugins=plugins, mqtt={"max_packet_size": 2 * MEMORY}, errors=True) as started:
        monkeypatch.setattr(started.server.storage, "_max_bytes", MEMORY)
        yield started


def named(name: str) -> Properties:
    return {Property.USER_PROPERTY: [("message-id", name)]}


CASES = [
    ("nobody/is/subscribed", b"x", {}, R.NO_MATCHING_SUBSCRIBERS),
    ("t", b"x", {}, R.SUCCESS),
    ("forbidden/t", b"x", {}, R.NOT_AUTHORIZED),
    ("$SYS/t", b"x", {}, R.NOT_AUTHORIZED),
    ("t", b"quota", {}, R.QUOTA_EXCEEDED),
    ("t", b"format", {}, R.PAYLOAD_FORMAT_INVALID),
    ("t", b"crash", {}, R.UNSPECIFIED_ERROR),
    ("t", b"x" * (MEMORY + 1), {}, R.IMPLEMENTATION_SPECIFIC_ERROR),
    ("t", b"another", named("taken"), R.IMPLEMENTATION_SPECIFIC_ERROR),
]
IDS = ["nobody", "stored", "denied", "reserved", "quota", "format", "plugin crashed", "never stored", "name taken"]


async def watched(broker: Broker) -> Client:
    """A reader of `t`, and a message there that has taken a name."""
    reader = await broker.client("reader", 5)
    await reader.subscribe("t", options=1)
    sender = await broker.client("earlier", 5)
    await sender.publish("t", b"first", properties=named("taken"))
    assert (await reader.message()).payload == b"first"
    return reader


async def test_the_log_says_which_message_was_refused_and_why(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """Also of QoS 0, where nobody is told; of many for one reason one line, and what is not authorized has its own."""
    sender = await broker.client("sender", 5)
    sender.send(Publish("t/0", b"format", 0), Publish("t/1", b"format", 0), Publish("forbidden/t", b"x", 0))
    await sender.publish("t/2", b"quota")
    told = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert [text.partition("sender")[2].partition(", ")[2] for text in told] == [
        "anonymous: message to 't/0' refused: not JSON",
        "anonymous: message to 't/2' refused: alice has sent enough for today (1 such lines were left out before this one)",
    ]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [1, 2])
async def test_acks_keep_the_order_of_messages_where_some_are_refused(broker: Broker, version: int, qos: int) -> None:
    """[MQTT-4.6.0-2, MQTT-4.6.0-3]"""
    refused = [("forbidden/t", b"x"), ("$SYS/t", b"x")] + [("t", b"quota"), ("t", b"crash")] * (version == 5)
    sender = await broker.client("sender", version)
    messages = [message for other in refused for message in (("t", b"x"), other)] + [("t", b"x")]
    ids = [len(messages) - place for place in range(len(messages))]
    sender.send(*(Publish(*message, qos, packet_id=packet_id) for message, packet_id in zip(messages, ids, strict=True)))
    if qos == 1:
        assert [(await sender.expect(PubAck)).packet_id for _ in ids] == ids
    else:
        assert [(await sender.expect(PubRec)).packet_id for _ in ids] == ids


async def test_what_was_stored_is_acknowledged_before_a_refusal_ends_the_connection(broker: Broker) -> None:
    sender = await broker.client("sender", 4)
    sender.send(Publish("t", b"x", 1, packet_id=2), Publish("t", b"quota", 1, packet_id=1))
    assert (await sender.expect(PubAck)).packet_id == 2
    await sender.closed()


@pytest.mark.parametrize(("topic", "payload", "properties", "code"), CASES, ids=IDS)
@pytest.mark.parametrize("qos", [1, 2])
async def test_the_reason_code(broker: Broker, qos: int, topic: str, payload: bytes, properties: Properties, code: int) -> None:
    """And the identifier is free again, and the connection goes on."""
    reader = await watched(broker)
    sender = await broker.client("earlier", 5)
    assert await sender.publish(topic, payload, qos, properties=properties) == code
    assert await sender.publish("t", b"after", qos) == 0
    expected = [payload, b"after"] if code == R.SUCCESS else [b"after"]
    assert [message.payload for message in await reader.messages(len(expected))] == expected
    (session,) = broker.server.sessions.named("earlier")
    assert session.received == {}
    assert isinstance(session.connection, Connection)
    assert (session.connection.inbound, session.connection.unstored) == (0, 0)


@pytest.mark.parametrize("qos", [1, 2])
async def test_who_sends_again_what_was_stored_is_told_so_whatever_a_plugin_says_by_now(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    """Access control comes first."""
    sender = await broker.client("sender", 5)
    sent = [("t", b"quota"), ("t", b"crash"), ("forbidden/t", b"x")]
    with monkeypatch.context() as patch:
        patch.setattr(Bouncer, "lenient", True)
        patch.setattr(broker.server.access.openness, "open", True)
        for topic, payload in sent:
            assert await sender.publish(topic, payload, qos, properties=named(f"{topic} {payload!r}")) < 0x80
    codes = [await sender.publish(*message, qos, properties=named(f"{message[0]} {message[1]!r}")) for message in sent]
    assert codes == [R.SUCCESS, R.SUCCESS, R.NOT_AUTHORIZED]
    assert await sender.publish("t", b"quota", qos, properties=named("new")) == R.QUOTA_EXCEEDED
    assert await sender.publish("t", b"quota", qos) == R.QUOTA_EXCEEDED
    stored = await broker.server.storage.read_conversation("t")
    assert [message.payload for message in stored] == [b"quota", b"crash"]


async def test_the_words_of_a_plugin_and_none_of_a_crash(broker: Broker) -> None:
    sender = await broker.client("sender", 5, properties={Property.REQUEST_PROBLEM_INFORMATION: 1})
    words = []
    for packet_id, payload in enumerate((b"quota", b"crash"), 1):
        sender.send(Publish("t", payload, 1, packet_id=packet_id))
        ack = await sender.receive()
        words.append(ack.properties[Property.REASON_STRING])  # type: ignore[union-attr]
    assert words == ["alice has sent enough for today", "plugin Bouncer failed before the ack"]


@pytest.mark.parametrize("payload", [b"quota", b"crash", b"x" * (MEMORY + 1)], ids=["quota", "crash", "never stored"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_3_1_1_keeps_what_was_refused(broker: Broker, qos: int, payload: bytes) -> None:
    sender = await broker.client("sender", 4)
    sender.send(Publish("t", payload, qos, packet_id=1 if qos else 0))
    assert await sender.closed() == []


async def test_why_something_was_refused_is_remembered_of_the_last_few(broker: Broker) -> None:
    """Who asks for ever another topic fills no memory (law 5)."""
    sender = await broker.client("sender", 5)
    topics = [f"forbidden/{number}" for number in range(40)]
    for topic in topics:
        assert await sender.publish(topic) == R.NOT_AUTHORIZED
    (session,) = broker.server.sessions.named("sender")
    assert session.connection is not None
    why = session.connection.info.why_refused
    assert [topic for topic in topics if why(PUBLISH, topic)] == topics[-16:]
    broker.server.access.rules_changed()  # so that it is asked about again
    assert await sender.publish(topics[-1]) == R.NOT_AUTHORIZED
    assert [topic for topic in topics if why(PUBLISH, topic)] == topics[-16:]


async def test_a_packet_that_is_too_large(broker: Broker) -> None:
    """3.2.2.3.6: the packet, not the message; so the connection ends."""
    sender = await broker.client("sender", 5)
    sender.send(Publish("t", b"x" * 2 * MEMORY, 1, packet_id=1))
    assert await sender.closed() == [Disconnect(R.PACKET_TOO_LARGE)]


async def test_a_session_that_an_operator_ends(broker: Broker) -> None:
    client = await broker.client("c", 5)
    (session,) = broker.server.sessions.named("c")
    broker.server.sessions.remove(session)
    assert await client.closed() == [Disconnect(R.ADMINISTRATIVE_ACTION)]
    await until(lambda: not broker.server.sessions.named("c"))
