"""Stock clients that keep a record of what they were told: devices that receive, and publishers.

All of them reconnect by themselves, for as long as they run, and resend what was not acknowledged, as paho-mqtt does it. A
publisher publishes only between a SUBACK and the end of that connection: by then paho has sent again what was open, so that
what reaches the broker first is in the order in which it was published.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.cli.demo_parts import Client

OUTSTANDING = 20
"""Messages that a publisher leaves unacknowledged at most."""
FOR_EVER = 0xFFFFFFFF
AWAY = "Server unavailable"
"""The reason of a refusal while storage is away for long: whoever gets it tries again."""


class Pulse:
    """What happened at all clients together: counted, so that a test can go on after so many more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0
        self.acks: list[float] = []
        """When publishers were acknowledged."""

    def beat(self, *, ack: bool = False) -> None:
        """A message arrived somewhere, or a publisher was acknowledged."""
        with self._changed:
            self.count += 1
            if ack:
                self.acks.append(time.monotonic())
            self._changed.notify_all()

    def wait(self, more: int, timeout: float) -> bool:
        """Wait for so many more of them; False if they don't come."""
        with self._changed:
            target = self.count + more
            return self._changed.wait_for(lambda: self.count >= target, timeout)

    def longest_silence(self, begin: float, end: float) -> float:
        """The longest time without any ack between two moments."""
        with self._changed:
            moments = [begin, *(at for at in self.acks if begin < at < end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


class Receipt(NamedTuple):
    """A message as the application got it. ``seq`` is the inbox sequence, where an MQTT 5 client was told; else 0."""

    at: float
    topic: str
    payload: str
    qos: int
    seq: int


class Sent:
    """A message of a publisher. ``risks``: how often a connection ended while it was not acknowledged."""

    __slots__ = ("acked", "payload", "qos", "risks", "topic")

    def __init__(self, topic: str, payload: str, qos: int) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.acked = False
        self.risks = 0


class Recorder:
    """What any device keeps, whatever its client library. ``filters`` maps topic filters to QoS."""

    def __init__(self, pulse: Pulse, user: str, name: str, filters: dict[str, int]) -> None:
        self.pulse = pulse
        self.user = user
        self.name = name
        self.filters = filters
        self.receipts: list[Receipt] = []
        self.got: set[str] = set()
        self.drops: list[float] = []
        """When a connection ended."""
        self.connected = threading.Event()
        self.problems: list[str] = []

    def start(self) -> None:
        """Connect, and stay connected."""
        raise NotImplementedError

    def stop(self) -> None:
        """Disconnect."""
        raise NotImplementedError

    def take(self, topic: str, payload: bytes, qos: int, properties: Any) -> None:
        """A message arrived."""
        pairs = dict(getattr(properties, "UserProperty", ()) or ())
        text = payload.decode()
        self.receipts.append(Receipt(time.monotonic(), topic, text, qos, int(pairs.get("tideline-inbox-seq", 0))))
        self.got.add(text)
        self.pulse.beat()

    def dropped(self) -> None:
        """A connection ended."""
        self.connected.clear()
        self.drops.append(time.monotonic())


class Device(Recorder):
    """A durable session on paho-mqtt."""

    def __init__(
        self, pulse: Pulse, port: int, user: str, name: str, filters: dict[str, int], version: int = mqtt.MQTTv311
    ) -> None:
        super().__init__(pulse, user, name, filters)
        self.version = version
        self._port = port
        self.client = self._make()

    def _make(self) -> mqtt.Client:
        clean = None if self.version == mqtt.MQTTv5 else False
        client = Client(CallbackAPIVersion.VERSION2, self.name, clean, protocol=MQTTProtocolVersion(self.version))
        client.username_pw_set(self.user, self.user)
        client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]  # seconds; nothing in paho needs them whole
        client.max_inflight_messages_set(OUTSTANDING + 1)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _, __, m: self.take(m.topic, bytes(m.payload), m.qos, getattr(m, "properties", None))
        return client

    def start(self) -> None:
        if self.version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = FOR_EVER
            properties.UserProperty = [("tideline-messages", "on")]
            self.client.connect_async("127.0.0.1", self._port, clean_start=False, properties=properties)
        else:
            self.client.connect_async("127.0.0.1", self._port)
        self.client.loop_start()

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.connected.clear()

    def crash(self) -> None:
        """The device loses its power, with all that its client remembered; `start` is its next life."""
        self.client.on_disconnect = None
        self.client.loop_stop()
        if (socket := self.client.socket()) is not None:
            socket.close()
        self.dropped()
        self.client = self._make()

    def _on_connect(self, client: mqtt.Client, _: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            if reason.getName() != AWAY:
                self.problems.append(f"{self.name}: refused: {reason}")
        elif self.version == mqtt.MQTTv5:
            client.subscribe([(name, SubscribeOptions(qos)) for name, qos in self.filters.items()])
        else:
            client.subscribe(list(self.filters.items()))

    def _on_subscribe(self, client: mqtt.Client, _: Any, mid: int, reasons: Any, properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self.problems.append(f"{self.name}: subscription refused: {reasons}")
        self.connected.set()

    def _on_disconnect(self, *_: Any) -> None:
        self.dropped()


class Plan(NamedTuple):
    """What a publisher does: topics and QoS to draw from, and whether it names its messages by ``message-id``."""

    topics: tuple[str, ...]
    qos: tuple[int, ...]
    named: bool = False


class PublisherRecord:
    """What any publisher keeps, whatever its client library."""

    def __init__(self, plan: Plan, seed: int, pace: float) -> None:
        self.plan = plan
        self.dice = random.Random(seed)
        self.pace = pace
        """Seconds between two messages, at most."""
        self.sent: dict[str, Sent] = {}
        self.halt = threading.Event()

    def next(self, name: str) -> Sent:
        """The next message."""
        topic, qos = self.dice.choice(self.plan.topics), self.dice.choice(self.plan.qos)
        message = Sent(topic, f"{name}:{len(self.sent)}", qos)
        self.sent[message.payload] = message
        return message

    def properties(self, message: Sent) -> Properties | None:
        """Its MQTT 5 properties."""
        if not self.plan.named:
            return None
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("message-id", message.payload)]
        return properties

    @property
    def acknowledged(self) -> list[Sent]:
        """The messages that the broker has promised to keep."""
        return [message for message in list(self.sent.values()) if message.acked]


class Sender(Device):
    """A device that publishes, which it may only while `may_publish`.

    What is published between CONNECT and CONNACK paho sends at once, and only then what it sends again: it would be the client
    that breaks the order.
    """

    def __init__(self, pulse: Pulse, port: int, user: str, name: str, version: int = mqtt.MQTTv311) -> None:
        super().__init__(pulse, port, user, name, {f"quiet/{name}": 0}, version)
        self._gate = threading.Lock()

    @contextmanager
    def may_publish(self) -> Iterator[bool]:
        """Whether it is between a SUBACK and the end of that connection, which is not noticed before this is left."""
        with self._gate:
            yield self.connected.is_set()

    def _on_disconnect(self, *_: Any) -> None:
        with self._gate:
            self.dropped()


class Publisher(Sender, PublisherRecord):
    """Publishes by its plan, on a thread of its own, until it is halted."""

    def __init__(
        self,
        pulse: Pulse,
        port: int,
        user: str,
        name: str,
        plan: Plan,
        seed: int,
        version: int = mqtt.MQTTv311,
        pace: float = 0.01,
    ) -> None:
        Sender.__init__(self, pulse, port, user, name, version)
        PublisherRecord.__init__(self, plan, seed, pace)
        self.open: dict[int, Sent] = {}
        """Not acknowledged, by packet identifier."""
        self._early: set[int] = set()
        self._room = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.client.on_publish = self._on_publish

    def start(self) -> None:
        super().start()
        self._thread.start()

    def _run(self) -> None:
        while not self.halt.wait(self.dice.uniform(0, self.pace)):
            if not self.connected.wait(0.1):
                continue
            if len(self.open) >= OUTSTANDING:
                self._room.clear()
                if len(self.open) >= OUTSTANDING:
                    self._room.wait(0.1)
                continue
            with self.may_publish() as may:
                if may:
                    self._publish(self.next(self.name))

    def _publish(self, message: Sent) -> None:
        info = self.client.publish(message.topic, message.payload, message.qos, properties=self.properties(message))
        if message.qos:
            self.open[info.mid] = message
            if info.mid in self._early:
                self._acked(info.mid)

    def _on_publish(self, _: Any, __: Any, mid: int, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            self.problems.append(f"{self.name}: message refused: {reason}")
        if mid in self.open:
            self._acked(mid)
        else:
            self._early.add(mid)  # its `publish` has not returned yet, or it is QoS 0
            if mid in self.open:
                self._acked(mid)

    def _acked(self, mid: int) -> None:
        message = self.open.pop(mid, None)
        if message is not None:
            self._early.discard(mid)
            message.acked = True
            self.pulse.beat(ack=True)
            self._room.set()

    def dropped(self) -> None:
        super().dropped()
        for message in list(self.open.values()):
            message.risks += 1

    def finish(self) -> None:
        """Publish no more, and let what is open be acknowledged."""
        self.halt.set()
        self._thread.join()


class WillHolder(Device):
    """A device with a will, a new one for each of its connections: ``will:<number>``."""

    def __init__(self, pulse: Pulse, port: int, user: str, name: str, topic: str, version: int = mqtt.MQTTv5) -> None:
        super().__init__(pulse, port, user, name, {f"quiet/{name}": 0}, version)
        self.topic = topic
        self.number = 0
        self.held: set[int] = set()
        """The wills of connections that the broker has accepted."""
        self._make_will()

    def _make_will(self) -> None:
        self.number += 1
        self.client.will_set(self.topic, f"will:{self.number}", qos=1)

    def _on_connect(self, client: mqtt.Client, _: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not reason.is_failure:
            self.held.add(self.number)
        super()._on_connect(client, _, flags, reason, properties)

    def _on_disconnect(self, *_: Any) -> None:
        super()._on_disconnect()
        self._make_will()

    def stop(self) -> None:
        self.given_up = self.number
        super().stop()
