"""A client as stock ones are: it keeps its session's state over its connections, sends again what was not acknowledged, and
acknowledges what it gets, unless it is told to wait with that."""

from __future__ import annotations

from collections.abc import Callable

from broker.packets import ReasonCode
from broker.packets.model import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from broker.packets.properties import Properties, Property
from tests.cluster_model.history import Connected, Dialled, History, Published, Received, Subscribed
from tests.cluster_model.wire import BrokerEnd, Wire

Dial = Callable[[Callable[[bytes | None], None]], BrokerEnd]
EXPIRY = 3600


class Device:
    """One client id. ``durable``: its session lasts; else each connection has a new one. ``version``: of MQTT, 4 or 5."""

    def __init__(self, name: str, user: str, durable: bool, version: int, history: History, time: Callable[[], float]) -> None:
        self.name = name
        self.user = user
        self.durable = durable
        self.version = version
        self.holding = False
        self.wire: Wire | None = None
        self.wires: list[Wire] = []
        """Of all its connections."""
        self.node = ""
        self.connection: Connected | None = None
        """Since CONNACK."""
        self.then: dict[type[Packet], Callable[[], None]] = {}
        """What is done, once, as soon as such a packet comes."""
        self.once_connected: list[Callable[[], None]] = []
        """What waits for CONNACK."""
        self._history = history
        self._time = time
        self.connections = 0
        self._session = 0
        self._published = 0
        self._next_id = 0
        self._asked: tuple[str, int, bool] = ("", 0, False)
        self._doubtful = False
        """A CONNECT got no answer. The broker may still open it: a clean start ends the session at any time, and where the
        session had ended by itself it has begun again."""
        self._outgoing: dict[int, tuple[Published, bool]] = {}
        """Messages that were not acknowledged to the end, by packet id; whether PUBREC came."""
        self._incoming: set[int] = set()
        self._held: list[tuple[Packet, Received | None]] = []
        self._subscribing: dict[int, list[Subscribed]] = {}
        self.filters: dict[str, Subscribed] = {}
        history.users[name] = user

    # --- connections -----------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self.wire is not None and self.connection is not None

    @property
    def dialling(self) -> bool:
        """CONNECT is sent, and no answer came."""
        return self.wire is not None and self.connection is None

    @property
    def pending(self) -> int:
        """Messages of its own that are not acknowledged to the end."""
        return len(self._outgoing)

    @property
    def comes_back(self) -> bool:
        """It has a session, or had one, that lasts."""
        return self.durable and self.connections > 0

    def connect(
        self, node: str, dial: Dial, *, clean: bool = False, will: bool = False, delay: int = 0, expiry: int = EXPIRY
    ) -> Wire:
        """Send CONNECT; a connection that there was is the caller's to end before."""
        self.node = node
        self.connections += 1
        number = self.connections
        payload = f"will/{self.name}/{number}" if will else ""
        clean = clean or not self.durable
        if self.version < 5:
            expiry, delay = EXPIRY, 0
            clean = not self.durable  # of 3.1.1 it says how long the session lasts, too
        self._asked = (payload, min(delay, expiry) if self.durable else delay, clean)
        self._dialled = Dialled(self.name, number, clean, expiry)
        self._history.dialled.append(self._dialled)
        if clean:
            self._new_session()  # whether the broker hears of it or not
        self.then.clear()
        wire = self.wire = Wire(dial, lambda packet: self._came(number, packet), lambda: self._ended(number), self.version)
        self.wires.append(wire)
        told = Will("wills", payload.encode(), 1, False, {Property.WILL_DELAY: delay} if delay else {}) if will else None
        if self.version < 5:
            wire.send(Connect(self.name, self.version, clean, 0, self.user[2:], b"", will=told))
            return wire
        properties: Properties = {
            Property.AUTHENTICATION_METHOD: "OBEY",
            Property.AUTHENTICATION_DATA: f"silently {self.user[2:]}".encode(),
        }
        if self.durable:
            properties[Property.SESSION_EXPIRY] = expiry
        wire.send(Connect(self.name, self.version, clean, 0, will=told, properties=properties))
        return wire

    def disconnect(self) -> None:
        """DISCONNECT, and close."""
        if self.wire is not None:
            if self.connection is not None:
                self.connection.said_goodbye = True
            self.wire.send(Disconnect())
            self.wire.close()
            self._over()

    def drop(self) -> None:
        """Close without a word."""
        if self.wire is not None:
            self.wire.close()
            self._over()

    def forsake(self) -> None:
        """Go away and never close: the broker's end stays open."""
        if self.wire is not None:
            self.wire.forsaken = True
            if self.connection is not None:
                self.connection.forsaken = True
            self._over()

    def _ended(self, number: int) -> None:
        if number == self.connections:
            self._over()

    def _over(self) -> None:
        connection, self.connection, self.wire = self.connection, None, None
        if connection is None and not self._dialled.answered and self.durable:
            mine = [dialled for dialled in self._history.dialled if dialled.device == self.name]
            self._doubtful |= self._dialled.clean or any(dialled.expiry < EXPIRY for dialled in mine)
        self._held.clear()
        self._subscribing.clear()
        for message, received in self._outgoing.values():
            if not received:
                message.broken = True
        for message in self._history.published.values():
            if message.device == self.name and not message.acked:
                message.broken = True
        if connection is not None:
            connection.ended, connection.ended_time = self._history.tick(), self._time()
            if not self.durable:
                self._new_session()

    def _new_session(self) -> None:
        """What the broker had of this session is gone."""
        at = self._history.tick()
        self._session += 1
        for subscribed in self.filters.values():
            subscribed.ended = at
        self.filters.clear()
        for message, _ in self._outgoing.values():
            message.given_up = True
        self._outgoing.clear()
        self._incoming.clear()

    # --- what it does ----------------------------------------------------------------------------------------------------

    def _id(self) -> int:
        self._next_id = self._next_id % 60000 + 1
        return self._next_id

    def publish(self, topic: str, qos: int, retain: bool) -> None:
        """PUBLISH with a payload that there is once."""
        assert self.wire is not None
        self._published += 1
        payload = f"{self.name}/{self._published}"
        history = self._history
        message = Published(payload, topic, qos, retain, self.name, history.tick(), self._published)
        history.published[payload] = message
        packet_id = self._id() if qos else 0
        if qos:
            self._outgoing[packet_id] = (message, False)
        self.wire.send(Publish(topic, payload.encode(), qos, retain, False, packet_id))

    def subscribe(self, filter_: str, qos: int) -> None:
        """SUBSCRIBE to one filter."""
        assert self.wire is not None
        assert self.connection is not None
        packet_id = self._id()
        before = self.filters.get(filter_)
        if before is None or before.qos != qos:
            subscribed = Subscribed(self.name, self._session, self.connection.number, filter_, qos)
            self._subscribing[packet_id] = [subscribed]
            if before is not None:
                before.ended = self._history.tick()
                del self.filters[filter_]
        self.wire.send(Subscribe(packet_id, [(filter_, qos)]))

    def unsubscribe(self, filter_: str) -> None:
        """UNSUBSCRIBE from one filter."""
        assert self.wire is not None
        at = self._history.tick()
        subscribed = self.filters.pop(filter_, None)
        if subscribed is not None:
            subscribed.ended = at
        for waiting in self._subscribing.values():
            for one in waiting:
                if one.filter == filter_:
                    one.ended = at
        self.wire.send(Unsubscribe(self._id(), [filter_]))

    def acknowledge(self) -> None:
        """What was held back goes out, and nothing is held back any more."""
        self.holding = False
        held, self._held = self._held, []
        for packet, received in held:
            self._answer(packet, received)

    # --- what comes ------------------------------------------------------------------------------------------------------

    def _came(self, number: int, packet: Packet) -> None:
        if number != self.connections or self.wire is None:
            return
        if isinstance(packet, ConnAck):
            self._accepted(number, packet)
        elif isinstance(packet, Publish):
            self._message(packet)
        elif isinstance(packet, PubRel):
            self._incoming.discard(packet.packet_id)
            self._say(PubComp(packet.packet_id), None)
        elif isinstance(packet, PubAck | PubRec | PubComp):
            self._acked(packet)
        elif isinstance(packet, SubAck):
            for subscribed in self._subscribing.pop(packet.packet_id, ()):
                subscribed.acked = self._history.tick()
                if not subscribed.ended and packet.reasons[0] < 0x80:
                    if (before := self.filters.get(subscribed.filter)) is not None:
                        before.ended = subscribed.acked
                    self.filters[subscribed.filter] = subscribed
                    self._history.subscribed.append(subscribed)
        elif not isinstance(packet, UnsubAck | Disconnect):
            raise AssertionError(f"unexpected: {packet}")
        then = self.then.pop(type(packet), None)
        if then is not None:
            then()

    def _accepted(self, number: int, packet: ConnAck) -> None:
        assert self.wire is not None
        history = self._history
        will, delay, clean = self._asked
        self._dialled.answered = True
        if packet.reason:
            if packet.reason not in (3, ReasonCode.SERVER_UNAVAILABLE, ReasonCode.SERVER_BUSY):  # it is to try again
                history.failures.append(f"{self.name} was refused by {self.node}: {packet.reason:#x}")
            self.wire.close()
            self._over()
            return
        if not packet.session_present:
            self._look_for_session(clean)
        if not packet.session_present or (self._doubtful and not clean):
            self._new_session()
        elif clean:
            history.failures.append(f"{self.name} was given a session that it did not ask for")
        self.connection = Connected(
            self.name,
            number,
            self._session,
            self.node,
            history.tick(),
            self._time(),
            packet.session_present,
            self.durable,
            will,
            delay,
            self._dialled.expiry if self.durable else 0,
        )
        history.connected.append(self.connection)
        for packet_id, (message, received) in list(self._outgoing.items()):
            if received:
                self.wire.send(PubRel(packet_id))
            else:
                message.sendings += 1
                self.wire.send(Publish(message.topic, message.payload.encode(), message.qos, message.retain, True, packet_id))
        waiting, self.once_connected = self.once_connected, []
        for act in waiting:
            act()

    def _look_for_session(self, clean: bool) -> None:
        """The broker has none: it may have ended, or been ended."""
        before = next((one for one in reversed(self._history.connected) if one.device == self.name), None)
        if clean or self._doubtful or before is None or before.session != self._session or not before.durable:
            return
        if any(t.node == before.node and t.end >= before.time and t.begin <= before.ended_time for t in self._history.troubles):
            return  # the node may have been found dead, which ended the connection before its client saw that
        unanswered = [d.expiry for d in self._history.dialled if d.device == self.name and not d.answered]
        left = before.ended_time + min([before.expiry, *unanswered]) - self._time()
        if left > 0:
            self._history.failures.append(f"the session of {self.name} is gone {left:.3f} s too early")

    def _message(self, packet: Publish) -> None:
        assert self.connection is not None
        history = self._history
        received = Received(
            self.name,
            self._session,
            self.connection.number,
            packet.payload.decode(),
            packet.topic,
            packet.qos,
            packet.retain,
            history.tick(),
        )
        history.received.append(received)
        if packet.qos == 0:
            received.acked = self._time()
        elif packet.qos == 1:
            self._say(PubAck(packet.packet_id), received)
        else:
            received.fresh = packet.packet_id not in self._incoming
            self._incoming.add(packet.packet_id)
            self._say(PubRec(packet.packet_id), received)

    def _say(self, packet: Packet, received: Received | None) -> None:
        if self.holding:
            self._held.append((packet, received))
        else:
            self._answer(packet, received)

    def _answer(self, packet: Packet, received: Received | None) -> None:
        assert self.wire is not None
        if received is not None:
            received.acked = self._time()
        self.wire.send(packet)

    def _acked(self, packet: PubAck | PubRec | PubComp) -> None:
        assert self.wire is not None
        history = self._history
        message, _ = self._outgoing.get(packet.packet_id, (None, False))
        if message is None:
            history.failures.append(f"{self.name} got {packet} for nothing that it had sent")
            return
        if packet.reason >= 0x80 and not isinstance(packet, PubComp):
            history.failures.append(f"{message.payload} was refused: {packet.reason:#x}")
            del self._outgoing[packet.packet_id]
            return
        if not isinstance(packet, PubComp) and not message.acked:
            message.acked = history.tick()
            self._everything_before(message)
        if isinstance(packet, PubRec):
            self._outgoing[packet.packet_id] = (message, True)
            self.wire.send(PubRel(packet.packet_id))
        else:
            del self._outgoing[packet.packet_id]

    def _everything_before(self, message: Published) -> None:
        """What was sent with QoS 0 on this connection before a message that is acknowledged was taken too."""
        for other in self._history.published.values():
            if other.device == self.name and not other.qos and not other.broken and other.at < message.at and not other.acked:
                other.acked = message.acked
