"""Laws 1 to 4 under SIGKILL: stock clients publish and receive while the broker is killed again and again."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from broker.packets import matches
from storage.factory import open_url
from tests.support.laws_clients import Pulse, Sender
from tests.support.laws_process import PATIENCE, BrokerProcess, broker_process
from tests.support.seeds import seeds
from tests.support.until import wait_until

KILLS = 3
WINDOW = 100
TOPICS = ("laws/one", "laws/two")


class Device:
    """A durable paho session of bob, 3.1.1 or 5, that reconnects by itself and writes down what it was given."""

    def __init__(self, port: int, client_id: str, version: int) -> None:
        self.got: list[tuple[str, bytes, int]] = []
        self.subscribed = threading.Event()
        options: dict[str, Any] = {"clean_session": False} if version == mqtt.MQTTv311 else {}
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion(version), **options)
        self.client.username_pw_set("bob", "bob")
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("laws/#", qos=2)
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda _, __, message: self.got.append((message.topic, bytes(message.payload), message.qos))
        keeps: dict[str, Any] = {}
        if version == mqtt.MQTTv5:
            keeps["properties"] = Properties(mqtt.CONNECT >> 4)
            keeps["properties"].SessionExpiryInterval = 3600
            keeps["clean_start"] = False
        self.client.connect("127.0.0.1", port, **keeps)
        self.client.loop_start()


class Publisher(Sender):
    """A durable session of alice; a message counts as acknowledged when paho says so."""

    def __init__(self, port: int, client_id: str, topic: str, qos: int) -> None:
        super().__init__(Pulse(), port, "alice", client_id)
        self.topic, self.qos, self.count = topic, qos, 0
        self._payloads: dict[int, bytes] = {}
        self._done: set[int] = set()
        # Takes no lock: paho holds one of its own while it calls, which `publish` waits for.
        self.client.on_publish = lambda _, __, mid, *___: self._done.add(mid)
        self.start()

    def publish(self) -> None:
        """Waits until it is connected, where the broker has just started."""
        while True:
            assert self.connected.wait(PATIENCE), f"{self.name} is not connected"
            with self.may_publish() as may:
                if may:
                    self.count += 1
                    payload = f"{self.name} {self.count}".encode()
                    self._payloads[self.client.publish(self.topic, payload, self.qos).mid] = payload
                    return

    @property
    def acknowledged(self) -> set[bytes]:
        return {self._payloads[mid] for mid in self._done.copy() & self._payloads.keys()}

    @property
    def waiting(self) -> int:
        return self.count - len(self.acknowledged)


def _kill_while_publishing(broker: BrokerProcess, publishers: list[Publisher], dice: random.Random) -> None:
    for _ in range(KILLS):
        before = sum(len(p.acknowledged) for p in publishers)
        target = before + dice.randrange(20, 120)
        for publisher in publishers:
            for _ in range(150):
                publisher.publish()
        wait_until(lambda: sum(len(p.acknowledged) for p in publishers) >= target, "acknowledgements before the kill")  # noqa: B023
        broker.kill()
        broker.start()
    wait_until(lambda: not any(p.waiting for p in publishers), "everything acknowledged")


async def _conversation(url: str, topic: str) -> list[bytes]:
    storage = open_url(url, read_only=True)
    await storage.open()
    try:
        payloads: list[bytes] = []
        while page := await storage.read_conversation(topic, after=len(payloads)):
            assert [m.seq for m in page] == list(range(len(payloads) + 1, len(payloads) + 1 + len(page)))
            payloads += [m.payload for m in page]
        return payloads
    finally:
        await storage.close()


async def _inbox(url: str, user: str) -> list[bytes]:
    storage = open_url(url, read_only=True)
    await storage.open()
    try:
        payloads: list[bytes] = []
        while page := await storage.read_inbox(user, len(payloads), 1000):
            assert [entry.seq for entry in page] == list(range(len(payloads) + 1, len(payloads) + 1 + len(page)))
            payloads += [entry.message.payload for entry in page if entry.message is not None]
        return payloads
    finally:
        await storage.close()


@pytest.mark.parametrize(("seed", "channel"), seeds((1, ""), (4, "laws/two"), more=[(2, ""), (3, "laws/#"), (5, "laws/one")]))
async def test_what_is_acknowledged_survives_every_kill(tmp_path: Path, seed: int, channel: str) -> None:
    """``channel``: a filter with read fan-out, of all topics or of one of them."""
    url = f"sqlite:///{tmp_path}/laws.db"
    policies = [{"filter": channel, "fanout": "read"}] if channel else []
    with broker_process(tmp_path, url, persistence={"policies": policies}) as broker:
        devices = [Device(broker.port, "phone", mqtt.MQTTv311), Device(broker.port, "laptop", mqtt.MQTTv5)]
        wait_until(lambda: all(d.subscribed.is_set() for d in devices), "subscriptions")
        publishers = [Publisher(broker.port, "sensor", TOPICS[0], 1), Publisher(broker.port, "meter", TOPICS[1], 2)]
        _kill_while_publishing(broker, publishers, random.Random(seed))
        for device in devices:
            wait_until(
                lambda: all(p.acknowledged <= {payload for _, payload, _ in device.got} for p in publishers),  # noqa: B023
                f"everything at {device.client._client_id!r}",
            )
        for client in (*(p.client for p in publishers), *(d.client for d in devices)):
            client.loop_stop()
        broker.stop()
        stored = {topic: await _conversation(url, topic) for topic in TOPICS}
        inbox = await _inbox(url, "u/bob")
        if channel:
            shared = await _inbox(url, f"r/{channel}")
            assert len(shared) == sum(len(payloads) for topic, payloads in stored.items() if matches(channel, topic))
            inbox += shared

    for publisher in publishers:
        times = Counter(stored[publisher.topic])
        assert publisher.acknowledged <= times.keys(), "law 1: an acknowledged message is not stored"
        assert publisher.acknowledged <= set(inbox), "law 1: an acknowledged message is not in the inbox"
        if publisher.qos == 2:
            assert set(times.values()) == {1}, "QoS 2 is stored once"
        firsts = list(dict.fromkeys(stored[publisher.topic]))
        assert firsts == sorted(firsts, key=lambda payload: int(payload.split()[1])), "law 4: not in the order of publishing"
    for device in devices:
        twice = Counter(payload for _, payload, qos in device.got if qos == 2)
        assert set(twice.values()) == {1}, "QoS 2 is delivered once"
        for topic in TOPICS:
            firsts = list(dict.fromkeys(payload for at, payload, _ in device.got if at == topic))
            assert firsts == list(dict.fromkeys(stored[topic])), (
                "laws 3 and 4: what the device got is not what was stored, in order"
            )
