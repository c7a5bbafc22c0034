"""One MQTT 5 connection, by paho. A new one is made after it ends: paho would else send again by itself what it ended at."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

log = logging.getLogger(__name__)

_FOR_EVER = 0xFFFFFFFF
_ANY_SIZE = 268_435_460
"""The largest packet that MQTT has, in bytes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the broker is, and who connects."""

    host: str
    port: int
    device: str
    user: str | None
    password: str | None
    tls: bool


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a link tells, all on the network's thread. Where one but ``arrived`` and ``ended`` raises, the connection ends."""

    let_in: Callable[[bool], None]
    """The broker has let it in; whether it has a session of the device."""
    subscribed: Callable[[int], None]
    """The broker has answered a SUBSCRIBE, by the number that `Link.subscribe` gave."""
    published: Callable[[int, ReasonCode, str | None], None]
    """The broker has answered a PUBLISH, by the number that `Link.publish` gave; with its words where it has some."""
    arrived: Callable[[str, bytes, dict[str, str]], bool]
    """A message: its topic, payload and user properties. Whether to acknowledge it."""
    ended: Callable[[int, str], None]
    """It has ended, once; the reason code of the broker's DISCONNECT, 0 where it sent none, and the reason in words."""


class Link:
    """``hooks`` are told from `open` on."""

    def __init__(self, settings: Settings, hooks: Hooks) -> None:
        self.admitted = False
        """The broker has let it in."""
        self.largest = _ANY_SIZE
        """The largest packet that the broker takes, in bytes."""
        self.thread: int | None = None
        """The network's thread, which calls the hooks."""
        self._settings = settings
        self._hooks = hooks
        self._over = threading.Event()
        self._mqtt = made = mqtt.Client(
            CallbackAPIVersion.VERSION2, settings.device, protocol=mqtt.MQTTv5, manual_ack=True, reconnect_on_failure=False
        )
        if settings.user is not None:
            made.username_pw_set(settings.user, settings.password)
        if settings.tls:
            made.tls_set()
        made.on_connect, made.on_disconnect = self._guarded(self._connected), self._disconnected
        made.on_publish, made.on_subscribe = self._guarded(self._published), self._guarded(self._subscribed)
        made.on_message = self._came

    # --- its course ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and go on in the background. Raises `OSError` where nothing answers at the address."""
        connecting = Properties(PacketTypes.CONNECT)
        connecting.SessionExpiryInterval = _FOR_EVER
        connecting.RequestProblemInformation = 1  # else a refusal comes without words
        connecting.UserProperty = ("tideline-messages", "on")
        self._mqtt.connect(self._settings.host, self._settings.port, clean_start=False, properties=connecting)
        self._mqtt.loop_start()

    def leave(self) -> None:
        """Say goodbye."""
        self._mqtt.disconnect()

    def end(self) -> None:
        """End the connection at once."""
        line = self._mqtt.socket()
        if isinstance(line, socket.socket):
            with contextlib.suppress(OSError):  # it has ended already
                line.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Wait until it has ended, and its thread with it."""
        self._over.wait()
        self._mqtt.loop_stop()

    # --- what goes out -------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the broker has let it in and it has not ended."""
        return self._mqtt.is_connected()

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int | None:
        """SUBSCRIBE to filters, each with its QoS; the number of its answer, None where the connection is lost."""
        return self._mqtt.subscribe([(f, SubscribeOptions(qos=qos, retainHandling=1)) for f, qos in filters])[1]

    def unsubscribe(self, filter: str) -> None:
        """UNSUBSCRIBE."""
        self._mqtt.unsubscribe(filter)

    def publish(self, topic: str, payload: bytes, properties: Properties | None = None) -> int:
        """PUBLISH at QoS 1; the number of its answer. Raises `ValueError` where MQTT has no such topic or length."""
        return self._mqtt.publish(topic, payload, qos=1, properties=properties).mid

    # --- what paho tells -----------------------------------------------------------------------------------------------

    def _guarded(self, step: Callable[..., None]) -> Callable[..., None]:
        def run(*values: Any) -> None:
            try:
                step(*values)
            except Exception:
                log.exception("the connection is given up, and tried again")
                self.end()

        return run

    def _connected(self, client: mqtt.Client, data: object, flags: mqtt.ConnectFlags, code: ReasonCode, more: object) -> None:
        self.thread = threading.get_ident()
        if code.is_failure:
            log.warning("the broker refuses the connection: %s", code)
            return
        self.admitted, self.largest = True, getattr(more, "MaximumPacketSize", _ANY_SIZE)
        self._hooks.let_in(flags.session_present)

    def _subscribed(self, client: mqtt.Client, data: object, mid: int, codes: list[ReasonCode], more: object) -> None:
        for code in codes:
            if code.is_failure:
                log.warning("the broker refuses a subscription: %s", code)
        self._hooks.subscribed(mid)

    def _published(self, client: mqtt.Client, data: object, mid: int, code: ReasonCode, more: object) -> None:
        self._hooks.published(mid, code, getattr(more, "ReasonString", None))

    def _came(self, client: mqtt.Client, data: object, packet: mqtt.MQTTMessage) -> None:
        about = dict(getattr(packet.properties, "UserProperty", ()))
        if self._hooks.arrived(packet.topic, bytes(packet.payload), about):
            client.ack(packet.mid, packet.qos)

    def _disconnected(
        self, client: mqtt.Client, data: object, flags: mqtt.DisconnectFlags, code: ReasonCode, more: object
    ) -> None:
        if self._over.is_set():
            return
        told = code.value if flags.is_disconnect_packet_from_server else 0
        self._hooks.ended(told, getattr(more, "ReasonString", None) or str(code))
        self._over.set()
