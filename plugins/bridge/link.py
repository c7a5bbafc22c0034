"""The connection to the other broker: paho-mqtt on its own thread, which connects again by itself.

- What was published and not acknowledged paho sends again on the next connection. `publish` ends with the acknowledgement.
- What came is acknowledged by hand. Only on the connection on which it came: on another its packet id may be another message's,
  and the other broker sends it again anyway.
- The other broker sends at most `_WINDOW` messages of QoS 1 ahead (MQTT 5's Receive Maximum; in 3.1.1 as it is configured);
  of QoS 0 what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from plugins.bridge.config import Bridge

log = logging.getLogger("tideline.bridge")

_WINDOW = 100
_QOS_0 = 1000
"""Messages of QoS 0 that wait, at most."""
_OUT = 10
"""Messages that are sent ahead of their acknowledgement."""
_SHORTEST, _LONGEST = 1, 60
"""Seconds until the next attempt to connect."""


_ENDED = "the connection ended"


class Come(NamedTuple):
    """A message that came, on which connection."""

    message: MQTTMessage
    connection: int


class Link:
    """Made within a running loop; `start` it once."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._connection = 0
        self._acks: dict[int, asyncio.Future[int]] = {}
        self.come: deque[Come] = deque()
        self.news = asyncio.Event()
        self.dropped = 0
        self.connected = False
        self.error = "not connected yet"
        self._refused = False
        """The connection that ends next was never one: why has been told. For paho's thread alone."""
        new = {"protocol": MQTTProtocolVersion.MQTTv5} if bridge.protocol == 5 else {"clean_session": False}
        self._client = client = Client(CallbackAPIVersion.VERSION2, bridge.client_id, manual_ack=True, **new)
        if bridge.username:
            client.username_pw_set(bridge.username, bridge.password or None)
        if bridge.tls:
            context = ssl.create_default_context(cafile=bridge.cafile or None)
            if bridge.certfile:
                context.load_cert_chain(bridge.certfile, bridge.keyfile or None)
            client.tls_set_context(context)
        client.max_inflight_messages_set(_OUT)
        client.reconnect_delay_set(_SHORTEST, _LONGEST)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe

    def start(self) -> None:
        """Begin to connect."""
        bridge = self._bridge
        options: dict[str, Any] = {}
        if bridge.protocol == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = bridge.session_expiry
            properties.ReceiveMaximum = _WINDOW
            options = {"clean_start": False, "properties": properties}
        self._client.connect_async(bridge.host, bridge.port, bridge.keep_alive, **options)
        self._client.loop_start()

    async def stop(self) -> None:
        """Disconnect. What was not acknowledged is sent again by whoever goes on."""
        self.error = _ENDED
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def publish(self, topic: str, payload: bytes, retain: bool, properties: Properties | None) -> int:
        """Publish with QoS 1: the reason code of its PUBACK. Raises ValueError for what MQTT cannot carry."""
        acknowledged: asyncio.Future[int] = self._loop.create_future()
        # Its PUBACK comes through the loop, so after this line.
        info = self._client.publish(topic, payload, 1, retain, properties if self._bridge.protocol == 5 else None)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise ValueError(f"paho does not take it: {info.rc!s}")
        self._acks[info.mid] = acknowledged
        try:
            return await acknowledged
        finally:
            self._acks.pop(info.mid, None)

    def acknowledge(self, come: Come) -> None:
        """It is durable here."""
        if come.message.qos and come.connection == self._connection:
            self._client.ack(come.message.mid, come.message.qos)

    # --- called on paho's thread -----------------------------------------------------------------------------------------

    def _on_connect(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self._refused = code.is_failure
        if code.is_failure:
            self._tell(self._lost, f"it refuses the connection: {code}")
            return
        self._tell(self._begun)
        options = [
            (route.remote + route.filter, SubscribeOptions(1, noLocal=True, retainAsPublished=True, retainHandling=1))
            if self._bridge.protocol == 5
            else (route.remote + route.filter, 1)
            for route in self._bridge.receive
        ]
        if options:
            client.subscribe(options)  # type: ignore[arg-type]

    def _on_connect_fail(self, client: Client, data: Any) -> None:
        self._tell(self._lost, "it cannot be reached")

    def _on_disconnect(self, client: Client, data: Any, flags: Any, code: Any, properties: Any) -> None:
        if not self._refused:
            self._tell(self._lost, f"{_ENDED}: {code}")
        self._refused = False

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        self._tell(self._arrived, message)

    def _on_publish(self, client: Client, data: Any, mid: int, code: Any, properties: Any) -> None:
        self._tell(self._acknowledged, mid, int(code.value))

    def _on_subscribe(self, client: Client, data: Any, mid: int, codes: Any, properties: Any) -> None:
        refused = [r.remote + r.filter for r, code in zip(self._bridge.receive, codes, strict=False) if code.is_failure]
        if refused:
            log.error("bridge %s: the other broker refuses to give %s", self._bridge.name, ", ".join(refused))

    def _tell(self, what: Any, *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *arguments)

    # --- called on the loop ----------------------------------------------------------------------------------------------

    def _begun(self) -> None:
        self._connection += 1
        self.connected, self.error = True, ""
        self.come.clear()  # what was not acknowledged comes again
        log.info("bridge %s: connected to %s", self._bridge.name, self._bridge.address)

    def _lost(self, why: str) -> None:
        if why != self.error and self.error != _ENDED:
            log.warning("bridge %s: %s: %s", self._bridge.name, self._bridge.address, why)
        self.connected, self.error = False, why

    def _arrived(self, message: MQTTMessage) -> None:
        if not message.qos and len(self.come) >= _QOS_0:
            self.dropped += 1
            return
        self.come.append(Come(message, self._connection))
        self.news.set()

    def _acknowledged(self, mid: int, code: int) -> None:
        acknowledged = self._acks.get(mid)
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(code)
