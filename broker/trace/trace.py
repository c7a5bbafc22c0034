"""A trace: what one client, user or topic does, for as long as somebody asks.

Kept true:

- Where nobody asks, the message path pays for a look at `None`, once for what a socket read, once for what is written to one
  and once for a group (`Node.tracer`, `PublishPath.tracer`).
- What was sent is read back from the bytes that were written, so it is what the client gets.
- A payload is in it only where that was asked for; passwords, authentication data and wills' payloads never are.
- What waits for a reader is bounded: the rest is left out, and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from broker.packets import (
    SHARE,
    Connect,
    Decoder,
    Packet,
    PacketType,
    Property,
    Publish,
    Subscribe,
    Unsubscribe,
    each,
    matches,
    overlap,
    parse_share,
)
from broker.publication import Publication
from broker.trace.events import Event, described, event, inbox_place, outcome, stored

if TYPE_CHECKING:
    from broker.access import SessionInfo

WAITING = 5000
"""Events that wait for a reader; more are left out."""
_REMEMBERED = 10_000
"""Messages whose acknowledgements a trace of a topic awaits."""


class Traceable(Protocol):
    """The connection of a client."""

    client_id: str
    peer: str
    version: int
    aliases: dict[int, str] | None
    aliases_out: dict[str, int] | None
    info: SessionInfo


class Trace:
    """What somebody follows: all of ``client``, ``user`` (a user key) and ``topic`` (a filter) that are given must match."""

    def __init__(self, *, client: str = "", user: str = "", topic: str = "", payloads: bool = False) -> None:
        self.client = client
        self.user = user
        self.topic = topic
        self.payloads = payloads
        self.left_out = 0
        """Events that were left out since the last one that was not."""
        self.left_out_in_all = 0
        self.news = asyncio.Event()
        self._events: deque[Event] = deque()
        self._awaited: dict[tuple[Traceable, str, int], str] = {}

    def about(self, client_id: str, user: str) -> bool:
        """Whether it is about a client of a user."""
        return (not self.client or self.client == client_id) and (not self.user or self.user == user)

    def put(self, entry: Event) -> None:
        """Keep it for the reader, where there is room."""
        if len(self._events) >= WAITING:
            self.left_out += 1
            self.left_out_in_all += 1
            return
        if self.left_out:
            self._events.append({"time": entry["time"], "event": "left_out", "count": self.left_out})
            self.left_out = 0
        self._events.append(entry)
        self.news.set()

    def taken(self) -> list[Event]:
        """What has come since the last call."""
        events = list(self._events)
        self._events.clear()
        self.news.clear()
        return events

    def wants(self, connection: Traceable, way: str, packet: Packet, topic: str) -> str | None:
        """The topic to name with a packet, empty for none; None where the packet is not of the topic that is followed."""
        if isinstance(packet, Publish):
            if self.topic and not (topic and matches(self.topic, topic)):
                return None
            if packet.qos:
                self._await((connection, way, packet.packet_id), topic)
            return topic
        if isinstance(packet, Subscribe | Unsubscribe):
            named = [name for name, _ in packet.subscriptions] if isinstance(packet, Subscribe) else packet.filters
            return "" if not self.topic or any(self._overlaps(name) for name in named) else None
        kind = packet.type
        if kind in _ACKS:
            other = way if kind is PacketType.PUBREL else _OTHER_WAY[way]
            found = self._awaited.get((connection, other, packet.packet_id))  # type: ignore[union-attr]
            if kind in _LAST:
                self._awaited.pop((connection, other, packet.packet_id), None)  # type: ignore[union-attr]
            return found if self.topic else found or ""
        return None if self.topic else ""

    def _await(self, key: tuple[Traceable, str, int], topic: str) -> None:
        if len(self._awaited) >= _REMEMBERED:
            del self._awaited[next(iter(self._awaited))]
        self._awaited[key] = topic

    def _overlaps(self, name: str) -> bool:
        inner = name
        if name.startswith(SHARE):
            shared = parse_share(name)
            inner = shared[1] if shared is not None else name
        return overlap(self.topic, inner)

    def forget(self, connection: Traceable) -> None:
        """The connection has ended."""
        for key in [key for key in self._awaited if key[0] is connection]:
            del self._awaited[key]


_OTHER_WAY = {"received": "sent", "sent": "received"}
_ACKS = {PacketType.PUBACK, PacketType.PUBREC, PacketType.PUBREL, PacketType.PUBCOMP}
_LAST = {PacketType.PUBACK, PacketType.PUBCOMP}


class Tracer:
    """The traces that are followed now. ``used`` is called with itself when the first begins, and with None after the last."""

    def __init__(self, used: Callable[[Tracer | None], None]) -> None:
        self._used = used
        self._traces: list[Trace] = []

    def __len__(self) -> int:
        return len(self._traces)

    def begin(self, trace: Trace) -> None:
        """Follow; `end` must be called."""
        self._traces.append(trace)
        self._used(self)

    def end(self, trace: Trace) -> None:
        """Nobody reads it any more."""
        self._traces.remove(trace)
        if not self._traces:
            self._used(None)

    # --- what is told --------------------------------------------------------------------------------------------------

    def received(self, connection: Traceable, packets: Sequence[Packet]) -> None:
        """Packets came from a client, and are not handled yet."""
        aliases = dict(connection.aliases or {})
        client_id, user = connection.client_id, _user(connection)
        for packet in each(packets):
            topic = ""
            if isinstance(packet, Connect):  # what stands behind it in one piece is the same client's
                client_id = packet.client_id
                user = f"c/{client_id}" if packet.username is None else f"u/{packet.username}"
            if isinstance(packet, Publish):
                alias = packet.properties.get(Property.TOPIC_ALIAS, 0)
                topic = packet.topic or aliases.get(alias, "")
                aliases[alias] = topic
            self._packet(connection, (client_id, user), "received", packet, topic)

    def sent(self, connection: Traceable, data: bytes) -> None:
        """Whole packets were written to a client."""
        client_id, user = connection.client_id, _user(connection)
        if not any(trace.about(client_id, user) for trace in self._traces):
            return
        aliases = {alias: topic for topic, alias in (connection.aliases_out or {}).items()}
        for packet in Decoder("client", version=connection.version).feed(data):
            topic = ""
            if isinstance(packet, Publish):
                topic = packet.topic or aliases.get(packet.properties.get(Property.TOPIC_ALIAS, 0), "")
            self._packet(connection, (client_id, user), "sent", packet, topic)

    def _packet(self, connection: Traceable, who: tuple[str, str], way: str, packet: Packet, topic: str) -> None:
        client_id, user = who
        for trace in self._traces:
            if not trace.about(client_id, user):
                continue
            named = trace.wants(connection, way, packet, topic)
            if named is not None:
                about = {"client": client_id, "user": user, "address": connection.peer}
                trace.put({**event(way, about), **described(packet, named, payload=trace.payloads)})

    def committed(self, publications: Iterable[Publication]) -> None:
        """A group is durable, but for what was refused in it."""
        for publication in publications:
            message = publication.message
            for trace in self._traces:
                if trace.topic and not matches(trace.topic, message.topic):
                    continue
                seq = inbox_place(publication, trace.user) if trace.user and not trace.client else 0
                if not seq and not trace.about(message.device, message.user):
                    continue
                about = {"client": message.device, "user": message.user}
                trace.put({**event(outcome(publication), about), **stored(publication, seq)})

    def closed(self, connection: Traceable, why: str) -> None:
        """A connection has ended."""
        about = {"client": connection.client_id, "user": _user(connection), "address": connection.peer}
        for trace in self._traces:
            if trace.about(connection.client_id, about["user"]) and not trace.topic:
                trace.put({**event("closed", about), "why": why})
            trace.forget(connection)


def _user(connection: Traceable) -> str:
    info = getattr(connection, "info", None)
    return "" if info is None else str(info.identity.user_key)
