"""The client: an MQTT 5 connection with a session that lasts, and a local copy behind it.

- What comes is kept locally before it is acknowledged, so that whatever happens to the app it comes once more, or is there.
- It does not matter where the broker believes the device to be: each connection begins by going back to the offset of the local
  copy. What is not here comes, and what comes twice is known by its id.
- What is sent is kept locally before it goes out, under a key that the broker stores once: it is sent again until the broker
  says that it has it, in order, also by the next start of the app (`sender`).
- Each connection is a new client of paho's, which would else send again by itself what the last connection ended at.
- Callbacks run one at a time, on the network's thread or that of the outbox. They may call everything but what waits for an
  answer (`Client.request`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tideline_client.errors import NoAnswer
from tideline_client.model import Message, Outgoing, Receipt
from tideline_client.requests import TOPIC, Requests
from tideline_client.sender import Sender
from tideline_client.store import Store
from tideline_client.topics import check_filter, check_topic

log = logging.getLogger(__name__)

_FOR_EVER = 0xFFFFFFFF
_SOONEST, _LATEST = 1.0, 30.0
"""Seconds until a connection is tried again: twice as long each time, up to the latter."""
_PAGE = 500
"""Messages of a history that the broker gives at once, at most."""
_ANY_SIZE = 268_435_460
"""The largest packet that MQTT has, in bytes."""


class Client:
    """One device of a user. ``store`` is the file of the local copy: it belongs to this device of this user at this broker.

    ``start`` says where a device that never connected begins: ``latest``, or ``earliest`` for all that its user's inbox has.
    Set the callbacks before `start`.
    """

    def __init__(
        self,
        host: str,
        port: int = 1883,
        *,
        device: str,
        store: str | Path,
        user: str | None = None,
        password: str | None = None,
        start: str = "latest",
        tls: bool = False,
    ) -> None:
        if start not in ("latest", "earliest"):
            raise ValueError(f"start {start!r}: must be latest or earliest")
        self.on_message: Callable[[Message], object] = lambda message: None
        """A message that was not here before."""
        self.on_receipt: Callable[[Receipt], object] = lambda receipt: None
        """How far a message of one's own is, where `send` asked for it."""
        self.on_read: Callable[[str, int], object] = lambda topic, position: None
        """Another device of the user has read a conversation up to a message."""
        self.on_refused: Callable[[Outgoing], object] = lambda message: None
        """The broker will never take a message. It stays in `outbox` until `discard`."""
        self.on_connected: Callable[[bool], object] = lambda connected: None
        self.store = Store(store)
        self._address = (host, port)
        self._device = device
        self._start_at = start
        self._filters: dict[str, int] = {}
        self._sender = Sender(self.store, lambda message: self._call(self.on_refused, message))
        self._let_in = False
        self._largest = _ANY_SIZE
        self._present = False
        """The broker has a session of this device."""
        self._settled = False
        """The broker has gone back to the store's offset. What comes before may lie behind a gap: its offset is kept only where
        it follows the store's directly."""
        self._last: int | None = 0
        """The number of the SUBSCRIBE behind which messages come and go."""
        self._lock = threading.RLock()
        self._calling = threading.RLock()
        self._ready = threading.Event()
        self._requests = Requests(self._ask)
        self._login = (user, password, tls)
        self._mqtt = self._make()
        self._over = threading.Event()
        """The connection has ended."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tideline {device}", daemon=True)
        self._network: int | None = None

    def _make(self) -> mqtt.Client:
        user, password, tls = self._login
        made = mqtt.Client(
            CallbackAPIVersion.VERSION2, self._device, protocol=mqtt.MQTTv5, manual_ack=True, reconnect_on_failure=False
        )
        if user is not None:
            made.username_pw_set(user, password)
        if tls:
            made.tls_set()
        made.on_connect, made.on_disconnect = self._guarded(self._connected), self._disconnected
        made.on_publish, made.on_subscribe = self._guarded(self._published), self._guarded(self._subscribed)
        made.on_message = self._came
        return made

    def _guarded(self, step: Callable[..., None]) -> Callable[..., None]:
        def run(*values: Any) -> None:
            try:
                step(*values)
            except Exception:
                log.exception("the connection is given up, and tried again")
                self._end()

        return run

    # --- the connection ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect in the background, now and whenever the connection is lost. It may be offline for as long as it takes."""
        host, port = self._address
        if not host or not 0 < port < 65536:
            raise ValueError(f"address {host!r} port {port}: must be a host, and a port from 1 to 65535")
        self._thread.start()

    def stop(self) -> None:
        """Disconnect. What is in the outbox goes out at the next start."""
        self._stopping.set()
        self._mqtt.disconnect()
        if self._thread.is_alive():
            if threading.get_ident() in (self._network, self._thread.ident):
                return  # in a callback: the connection ends, and the store is closed, once that is over
            self._thread.join()
        self.store.close()

    def _run(self) -> None:
        connecting = Properties(PacketTypes.CONNECT)
        connecting.SessionExpiryInterval = _FOR_EVER
        connecting.RequestProblemInformation = 1  # else a refusal comes without words
        connecting.UserProperty = ("tideline-messages", "on")
        pause = _SOONEST
        while not self._stopping.is_set():
            self._over.clear()
            self._let_in = False
            self._sender.begin()
            self._mqtt = line = self._make()
            try:
                line.connect(*self._address, clean_start=False, properties=connecting)
            except OSError as error:
                log.info("no connection to %s port %d: %s", *self._address, error)
            else:
                if self._stopping.is_set():  # it may not have seen this connection
                    line.disconnect()
                line.loop_start()
                try:
                    self._sender.run(line)
                except Exception:
                    log.exception("what became of a message could not be kept: it is sent again")
                    self._end()
                self._over.wait()
                line.loop_stop()
                if self._let_in:
                    pause = _SOONEST
            self._stopping.wait(pause)
            pause = min(2 * pause, _LATEST)
        self.store.close()

    def wait_connected(self, timeout: float = 10.0) -> bool:
        """Wait until messages come in and go out."""
        return self._ready.wait(timeout)

    def subscribe(self, filter: str, qos: int = 1) -> None:
        """Get the messages of topics; the session keeps it. To be called at each start of the app, connected or not. Raises
        `ValueError` where it is no filter."""
        check_filter(filter)
        with self._lock:
            self._filters[filter] = qos
        if self._mqtt.is_connected():
            self._mqtt.subscribe(filter, options=SubscribeOptions(qos=qos, retainHandling=1))

    def unsubscribe(self, filter: str) -> None:
        """Get them no longer. Only while connected: the session would go on. Raises `NoAnswer`."""
        if not self._ready.is_set():
            raise NoAnswer(f"unsubscribe {filter}: not connected")
        with self._lock:
            self._filters.pop(filter, None)
        self._mqtt.unsubscribe(filter)

    def _connected(self, client: mqtt.Client, data: object, flags: mqtt.ConnectFlags, code: ReasonCode, more: object) -> None:
        self._network = threading.get_ident()
        if code.is_failure:
            log.warning("the broker refuses the connection: %s", code)
            return
        self._let_in, self._largest = True, getattr(more, "MaximumPacketSize", _ANY_SIZE)
        own = [f"$sync/{kind}/{self._device}" for kind in ("reply", "events", "receipts")]
        with self._lock:
            wanted = [(topic, 1) for topic in own] + list(self._filters.items())
        self._present, self._settled = flags.session_present, False
        self._last = client.subscribe([(f, SubscribeOptions(qos=qos, retainHandling=1)) for f, qos in wanted])[1]

    def _subscribed(self, client: mqtt.Client, data: object, mid: int, codes: list[ReasonCode], more: object) -> None:
        for code in codes:
            if code.is_failure:
                log.warning("the broker refuses a subscription: %s", code)
        if mid == self._last:
            self._go_back()

    def _go_back(self) -> None:
        """Have the broker go on from what is here, unless that is of another copy of the data."""
        offset, epoch = self.store.offset, self.store.data_epoch
        fields: dict[str, Any] = {"op": "sync", "after": offset, "limit": 1, **({"data_epoch": epoch} if epoch else {})}
        self._requests.send(fields, lambda answer: self._compared(answer, offset, epoch))

    def _compared(self, answer: dict[str, Any], offset: int, epoch: str) -> None:
        error = answer.get("error")
        if error is not None and error["name"] == "resync" and (offset or epoch):
            self.store.forget("")
            self._go_back()
        elif error is not None:
            self._give_up(f"cannot go on from offset {offset}: {error['detail']}")
        elif epoch or offset or self._start_at == "earliest":
            self._go_to(offset, answer["data_epoch"])
        elif self._present:  # the first time that this copy is there, but not the first time of the device
            self._requests.send({"op": "device"}, lambda device: self._go_to(device.get("offset"), answer["data_epoch"]))
        else:
            self._go_to(answer["head"], answer["data_epoch"])

    def _go_to(self, offset: int | None, data_epoch: str) -> None:
        if offset is None:
            self._give_up("the broker does not say where the device is")
            return
        self.store.begin(offset, data_epoch)
        self._requests.send({"op": "set-offset", "offset": offset}, self._went)

    def _went(self, answer: dict[str, Any]) -> None:
        if (error := answer.get("error")) is not None:
            self._give_up(f"cannot go back: {error['detail']}")
            return
        self._settled = True
        self._go_on()

    def _give_up(self, why: str) -> None:
        """End the connection; the next one begins anew."""
        log.warning("the connection is given up, and tried again: %s", why)
        self._end()

    def _end(self) -> None:
        line = self._mqtt.socket()
        if isinstance(line, socket.socket):
            with contextlib.suppress(OSError):  # it has ended already
                line.shutdown(socket.SHUT_RDWR)

    def _go_on(self) -> None:
        """Messages come: let the outbox go out, and the read positions."""
        self._ready.set()
        self._call(self.on_connected, True)
        for topic, position in self.store.untold():
            self._tell_read(topic, position)
        self._sender.go(self._largest)

    def _disconnected(
        self, client: mqtt.Client, data: object, flags: mqtt.DisconnectFlags, code: ReasonCode, more: object
    ) -> None:
        if self._over.is_set():
            return
        was = self._ready.is_set()
        self._ready.clear()
        self._requests.lost()
        told = code.value if flags.is_disconnect_packet_from_server else 0
        self._sender.ended(told, getattr(more, "ReasonString", None) or str(code))
        if was:
            self._call(self.on_connected, False)
        self._over.set()

    # --- messages in ---------------------------------------------------------------------------------------------------

    def _came(self, client: mqtt.Client, data: object, packet: mqtt.MQTTMessage) -> None:
        try:
            if packet.topic.startswith("$sync/"):
                self._told(packet.topic, bytes(packet.payload))
            else:
                self._take(packet)
        except Exception:
            log.exception("a message of %s could not be kept: it comes again with the next connection", packet.topic)
            self._settled = False  # what follows lies behind it
            return
        client.ack(packet.mid, packet.qos)

    def _told(self, topic: str, payload: bytes) -> None:
        kind = topic.split("/")[1]
        if kind == "reply":
            self._requests.answered(payload)
            return
        event = json.loads(payload)
        if kind == "receipts":
            self._call(self.on_receipt, Receipt.of_json(event))
        elif event["event"] == "read":
            self.store.read(event["topic"], event["position"], told=True)
            self._call(lambda: self.on_read(event["topic"], event["position"]))

    def _take(self, packet: mqtt.MQTTMessage) -> None:
        about = dict(getattr(packet.properties, "UserProperty", ()))
        if "tideline-id" not in about:
            log.debug("a message of %s came without its id, and is not kept", packet.topic)
            return
        sender, seq, time = about["tideline-sender"], int(about["tideline-seq"]), int(about["tideline-time"])
        message = Message(about["tideline-id"], packet.topic, seq, sender, time, bytes(packet.payload))
        at = int(about.get("tideline-inbox-seq", 0))
        known = self._settled or at == self.store.offset + 1  # nothing lies between
        if self.store.take(message, at if known else 0):
            self._call(self.on_message, message)

    # --- messages out --------------------------------------------------------------------------------------------------

    def send(self, topic: str, payload: str | bytes, *, receipt: Sequence[str] = ()) -> str:
        """Send a message, now or as soon as there is a connection; its key, which receipts name. Raises
        `ValueError` where the topic is none, `TypeError` where the payload is neither text nor bytes.

        ``receipt``: of which states one wants to hear, ``delivered``, ``acknowledged``, ``read``.
        """
        check_topic(topic)
        data = payload.encode() if isinstance(payload, str) else payload
        if not isinstance(data, bytes | bytearray):
            raise TypeError(f"payload: a {type(data).__name__} must be str or bytes, such as json.dumps(…)")
        message = Outgoing(uuid.uuid4().hex, topic, data, tuple(receipt))
        self.store.put(message)
        self._sender.wake()
        return message.key

    def outbox(self) -> list[Outgoing]:
        """What the broker does not have, in order; what it has refused says why."""
        return self.store.waiting()

    def discard(self, key: str) -> None:
        """Take a message out of the outbox: one that was refused, or is not to be sent any more."""
        self.store.sent(key)

    def _published(self, client: mqtt.Client, data: object, mid: int, code: ReasonCode, more: object) -> None:
        self._sender.answered(mid, code, getattr(more, "ReasonString", None))

    # --- conversations ---------------------------------------------------------------------------------------------------

    def history(self, topic: str, limit: int = 50, before: int = 0) -> list[Message]:
        """The newest messages of a conversation (with a lower sequence than ``before``), the oldest first: those that are here,
        after those that are missing were fetched, where there is a connection. Raises `RequestFailed` where one may not read
        it, and `ValueError`."""
        check_topic(topic)
        for name, value in (("limit", limit), ("before", before)):
            if value < 0:
                raise ValueError(f"{name} {value}: must be a whole number from 0 on")
        if self._ready.is_set():
            try:
                self._fetch(topic, limit, before)
            except NoAnswer as error:
                log.info("history of %s is what is here: %s", topic, error)
        return self.store.history(topic, limit, before)

    def _fetch(self, topic: str, limit: int, before: int) -> None:
        fields: dict[str, Any] = {"op": "history", "topic": topic, "order": "newest", "before": before}
        while limit > 0:
            page = self.request({**fields, "limit": min(limit, _PAGE)})
            for found in page["messages"]:
                self.store.take(Message.of_json(found))
            if page["next"] is None:
                return
            limit -= len(page["messages"])  # a page may be shorter than was asked for: it has at most 1 MiB
            fields["cursor"] = page["next"]

    def topics(self) -> list[str]:
        """The conversations that have messages here."""
        return self.store.topics()

    def unread(self, topic: str) -> int:
        """How many messages of a conversation that are here are not read."""
        return self.store.unread(topic)

    def mark_read(self, topic: str, seq: int) -> None:
        """The user has read up to a message. The user's other devices, and who asked for receipts, hear of it."""
        self.store.read(topic, seq, told=False)
        if self._ready.is_set():
            self._tell_read(topic, seq)

    def _tell_read(self, topic: str, position: int) -> None:
        def told(answer: dict[str, Any]) -> None:
            if "error" not in answer:
                self.store.read(topic, position, told=True)

        self._requests.send({"op": "read", "topic": topic, "position": position}, told)

    def receipts(self, message_id: str) -> dict[str, int]:
        """How many users have a message, were given it, have acknowledged and read it: for who was away when it was told."""
        counts: dict[str, int] = {}
        after: str | None = ""
        while after is not None:
            page = self.request({"op": "counts", "message": message_id, "after": after})
            for state, count in page["counts"]["users"].items():
                counts[state] = counts.get(state, 0) + count
            after = page["next"]
        return counts

    def request(self, fields: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
        """Ask the broker, ``op`` being what (docs/sync.md of Tideline). Raises `RequestFailed` and `NoAnswer`."""
        if not self._ready.is_set():
            raise NoAnswer(f"{fields['op']}: not connected")
        return self._requests.ask(fields, timeout)

    def _ask(self, payload: bytes) -> None:
        self._mqtt.publish(TOPIC, payload, qos=1)

    def _call(self, callback: Callable[..., object], *values: object) -> None:
        """One at a time. What an app's callback raises is logged, and stops nothing."""
        with self._calling:
            try:
                callback(*values)
            except Exception:
                log.exception("a callback failed")
