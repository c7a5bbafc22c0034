"""Stock paho-mqtt in both versions, over every kind of listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.clients.stock import WAYS, Stock, Way, way_name
from tests.support.paho_client import PahoClient

Make = Callable[..., PahoClient]


@pytest.fixture
def client(stock: Stock) -> Iterator[Make]:
    """Makes a connected client of a user; ``expiry`` gives it a session that lasts so many seconds (3.1.1: for ever)."""
    made: list[PahoClient] = []

    def make(
        name: str, version: int, way: Way = WAYS[0], *, expiry: int = 0, properties: Any = None, **more: Any
    ) -> PahoClient:
        if version == 5:
            properties = properties or Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = expiry
            more |= {"properties": properties, "clean_start": not expiry}
        one = PahoClient(name, version, way.transport, **({"clean_session": not expiry} if version == 4 else {}))
        made.append(one)
        if way.transport == "websockets":
            one.paho.ws_set_options("/mqtt")
        if way.tls:
            one.paho.tls_set_context(stock.certificates.client())
        assert one.connect(stock.address(way), name, name, **more) == "Success"
        return one

    yield make
    for one in made:
        one.close()


def publish_properties(**values: Any) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


@pytest.mark.parametrize("way", WAYS, ids=way_name)
def test_messages_of_each_quality_and_size(stock: Stock, client: Make, version: int, way: Way) -> None:
    topic = stock.name("t")
    reader, sender = client(stock.name("reader"), version, way), client(stock.name("sender"), version, way)
    assert reader.subscribe(f"{topic}/#", 2)
    for qos in (0, 1, 2):
        for size in (0, 200, 70_000):
            assert sender.publish(f"{topic}/{qos}", b"x" * size, qos) == "Success"
            message = reader.message()
            assert (message.topic, len(message.payload), message.qos, message.retain) == (f"{topic}/{qos}", size, qos, False)


def test_a_device_gets_what_it_missed(stock: Stock, client: Make, version: int) -> None:
    topic, name = stock.name("t"), stock.name("reader")
    reader, sender = client(name, version, expiry=600), client(stock.name("sender"), version)
    assert not reader.present
    assert reader.subscribe(topic, 2)
    reader.close()
    for number in range(50):
        sender.publish(topic, str(number).encode(), number % 3)
    reader = client(name, version, expiry=600)
    assert reader.present
    got = [int(reader.receive()[1]) for _ in range(50)]
    assert sorted(got) == list(range(50))
    for qos in (0, 1, 2):  # paho hands a QoS 2 message over when it is released, so each quality has an order of its own
        mine = [number for number in got if number % 3 == qos]
        assert mine == sorted(mine)


def test_retained_messages(stock: Stock, client: Make, version: int) -> None:
    topic = stock.name("t")
    sender = client(stock.name("sender"), version)
    sender.publish(topic, b"kept", 1, retain=True)
    reader = client(stock.name("reader"), version)
    assert reader.subscribe(topic)
    message = reader.message()
    assert (message.payload, message.retain) == (b"kept", True)
    sender.publish(topic, b"", 1, retain=True)
    sender.publish(f"{topic}/end", b"end", 1, retain=True)
    late = client(stock.name("late"), version)
    assert late.subscribe(f"{topic}/#")
    assert late.receive() == (f"{topic}/end", b"end")


def test_a_will(stock: Stock, client: Make, version: int) -> None:
    topic = stock.name("t")
    watcher = client(stock.name("watcher"), version)
    assert watcher.subscribe(topic)
    name = stock.name("fragile")
    fragile = PahoClient(name, version)
    fragile.paho.will_set(topic, b"gone", 1)
    assert fragile.connect(stock.address(), name, name) == "Success"
    socket = fragile.paho.socket()
    assert socket is not None
    fragile.paho.loop_stop()
    socket.close()
    assert watcher.receive() == (topic, b"gone")


def test_what_is_not_allowed(stock: Stock, client: Make, version: int) -> None:
    one = client(stock.name("one"), version)
    assert not one.subscribe("forbidden/x")
    assert one.publish("forbidden/x", b"") == ("Not authorized" if version == 5 else "Success")
    wrong = PahoClient(stock.name("wrong"), version)
    assert wrong.connect(stock.address(), "somebody", "guess") in ("Bad user name or password", "Not authorized")
    wrong.close()


# --- what only version 5 has -------------------------------------------------------------------------------------------


def test_properties_reach_the_reader(stock: Stock, client: Make) -> None:
    topic = stock.name("t")
    reader, sender = client(stock.name("reader"), 5), client(stock.name("sender"), 5)
    numbered = Properties(PacketTypes.SUBSCRIBE)
    numbered.SubscriptionIdentifier = 77
    assert reader.subscribe(topic, options=SubscribeOptions(qos=2), properties=numbered)
    pairs = [("a", "1"), ("b", "ü"), ("a", "2")]
    properties = publish_properties(
        PayloadFormatIndicator=1,
        MessageExpiryInterval=100,
        ContentType="text/plain",
        ResponseTopic="answers/here",
        CorrelationData=b"\0\1",
        UserProperty=pairs,
    )
    assert sender.publish(topic, b"x", 2, properties=properties) == "Success"
    told: Any = reader.message().properties
    assert (told.PayloadFormatIndicator, told.MessageExpiryInterval, told.ContentType) == (1, 100, "text/plain")
    assert (told.ResponseTopic, told.CorrelationData, told.UserProperty) == ("answers/here", b"\0\1", pairs)
    assert told.SubscriptionIdentifier == [77]


def test_request_and_response(stock: Stock, client: Make) -> None:
    asking = Properties(PacketTypes.CONNECT)
    asking.RequestResponseInformation = 1
    caller, answerer = client(stock.name("caller"), 5, properties=asking), client(stock.name("answerer"), 5)
    answers, questions = f"{caller.welcome.ResponseInformation}/{stock.name('c')}", stock.name("questions")
    assert caller.subscribe(answers)
    assert answerer.subscribe(questions)
    caller.publish(questions, b"six times seven", properties=publish_properties(ResponseTopic=answers, CorrelationData=b"1"))
    asked: Any = answerer.message().properties
    back = publish_properties(CorrelationData=asked.CorrelationData)
    answerer.publish(asked.ResponseTopic, b"42", properties=back)
    answer = caller.message()
    told: Any = answer.properties
    assert (answer.payload, told.CorrelationData) == (b"42", b"1")


def test_a_shared_subscription_spreads_work(stock: Stock, client: Make) -> None:
    topic = stock.name("t")
    workers = [client(stock.name("worker"), 5) for _ in range(2)]
    for worker in workers:
        assert worker.subscribe(f"$share/{topic}/{topic}")
    sender = client(stock.name("sender"), 5)
    for number in range(40):
        sender.publish(topic, str(number).encode())
    done = {int(worker.receive()[1]) for worker in workers for _ in range(5)}
    while len(done) < 40:
        for worker in workers:
            while not worker.messages.empty():
                done.add(int(worker.receive()[1]))
    assert done == set(range(40))


def test_no_local_and_retain_handling(stock: Stock, client: Make) -> None:
    topic = stock.name("t")
    one, other = client(stock.name("one"), 5), client(stock.name("other"), 5)
    other.publish(topic, b"kept", retain=True)
    assert one.subscribe(topic, options=SubscribeOptions(qos=1, noLocal=True, retainHandling=2))
    one.publish(topic, b"mine")
    other.publish(topic, b"theirs")
    assert one.receive() == (topic, b"theirs")


def test_reason_codes(stock: Stock, client: Make) -> None:
    one = client(stock.name("one"), 5)
    assert one.publish(stock.name("nobody"), b"") == "No matching subscribers"
    again = PahoClient(one.paho._client_id.decode(), 5)
    name = again.paho._client_id.decode()
    assert again.connect(stock.address(), name, name) == "Success"
    assert str(one.disconnected.get(timeout=30)) == "Session taken over"
    again.close()


def test_an_assigned_name_and_the_servers_limits(stock: Stock, client: Make) -> None:
    user = stock.name("user")
    nameless = PahoClient("", 5)
    assert nameless.connect(stock.address(), user, user) == "Success"
    assert nameless.welcome.AssignedClientIdentifier.startswith("auto-")
    assert nameless.welcome.ReceiveMaximum == 1000
    assert nameless.welcome.TopicAliasMaximum == 16
    nameless.close()


def test_a_topic_alias(stock: Stock, client: Make) -> None:
    topic = stock.name("t")
    reader, sender = client(stock.name("reader"), 5), client(stock.name("sender"), 5)
    assert reader.subscribe(topic)
    sender.publish(topic, b"1", properties=publish_properties(TopicAlias=1))
    sender.publish("", b"2", properties=publish_properties(TopicAlias=1))
    assert [reader.receive(), reader.receive()] == [(topic, b"1"), (topic, b"2")]
