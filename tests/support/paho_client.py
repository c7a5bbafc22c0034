"""A paho client whose callbacks end up in queues; its methods block, so tests with a loop call them on a thread."""

from __future__ import annotations

import queue
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

WAIT = 30
Transport = Literal["tcp", "websockets"]


class PahoClient:
    """``version`` is paho's constant. It does not reconnect by itself while a test runs."""

    def __init__(
        self,
        name: str,
        version: int = paho.MQTTv311,
        transport: Literal["tcp", "websockets"] = "tcp",
        **options: Any,
    ) -> None:
        if version != paho.MQTTv5:
            options.setdefault("clean_session", True)
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion(version), transport=transport, **options
        )
        self.connected: queue.Queue[Any] = queue.Queue()
        self.disconnected: queue.Queue[Any] = queue.Queue()
        self.granted: queue.Queue[list[Any]] = queue.Queue()
        self.published: queue.Queue[Any] = queue.Queue()
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.welcome: Any = None
        """The properties of the CONNACK."""
        self.present = False
        """Its session present flag."""
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = lambda client, data, flags, reason, properties: self.disconnected.put(reason)
        self.paho.on_subscribe = lambda client, data, mid, reasons, properties: self.granted.put(reasons)
        self.paho.on_publish = lambda client, data, mid, reason, properties: self.published.put(reason)
        self.paho.on_message = lambda client, data, message: self.messages.put(message)
        self.paho.reconnect_delay_set(60, 60)

    def _on_connect(self, client: paho.Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.welcome, self.present = properties, flags.session_present
        self.connected.put(reason)

    def connect(self, address: tuple[str, int], username: str | None = None, password: str | None = None, **more: Any) -> str:
        """The reason code of the CONNACK; ``more`` are options of paho's ``connect``."""
        if username is not None:
            self.paho.username_pw_set(username, password)
        self.paho.connect(*address, **more)
        self.paho.loop_start()
        return str(self.connected.get(timeout=WAIT))

    def subscribe(self, topic: str, qos: int = 1, **more: Any) -> bool:
        """Whether it was granted; ``more`` are options of paho's ``subscribe``."""
        if "options" not in more:
            more["qos"] = qos
        self.paho.subscribe(topic, **more)
        return not self.granted.get(timeout=WAIT)[0].is_failure

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False, **more: Any) -> str:
        """Returns once it is acknowledged: the reason code, which for 3.1.1 is always Success."""
        self.paho.publish(topic, payload, qos, retain, **more)
        return str(self.published.get(timeout=WAIT))

    def message(self) -> paho.MQTTMessage:
        """The next message."""
        return self.messages.get(timeout=WAIT)

    def receive(self) -> tuple[str, bytes]:
        """Its topic and payload."""
        message = self.message()
        return message.topic, bytes(message.payload)

    def close(self) -> None:
        """Disconnect, and end the thread."""
        self.paho.disconnect()
        self.paho.loop_stop()
