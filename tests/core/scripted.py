"""The whole broker without sockets, on a storage whose every commit and read a script lets through.

A `World` is a real `Server` with connections over transports of our own. It writes down, in order, what the pipeline numbered
and which filters took effect, so that what is due to each device is known without asking the code under test.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from broker.connection.connection import Connection
from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import Connect, Packet, PubAck, PubComp, Publish, PubRec, PubRel
from broker.packets.model import Subscribe as SubscribePacket
from broker.packets.topics import matches
from broker.publication import Publication
from broker.routing.subscriptions import SubscribeStep
from broker.server import Server
from storage.memory import MemoryStorage
from storage.records import Append, InboxEntry, Message, Operation
from tests.support.broker import Loud, settings


class Gate:
    """Tokens that a script hands out; open for ever once ``free``."""

    def __init__(self) -> None:
        self._tokens = asyncio.Semaphore(0)
        self.free = False

    async def pass_(self) -> None:
        if not self.free:
            await self._tokens.acquire()

    def let(self) -> None:
        self._tokens.release()

    async def shut(self) -> None:
        """Take back what was handed out and not used."""
        while not self._tokens.locked():
            await self._tokens.acquire()

    def open(self) -> None:
        self.free = True
        for _ in range(10_000):
            self._tokens.release()


class Scripted(MemoryStorage):
    """Each commit waits before it is applied, and again before it is answered; each read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.apply, self.answer, self.read, self.reply = Gate(), Gate(), Gate(), Gate()
        self.gates = (self.apply, self.answer, self.read, self.reply)
        self.durable: set[bytes] = set()
        """Payloads of all messages that were committed."""

    async def commit(self, group: Sequence[Operation]) -> None:
        await self.apply.pass_()
        await super().commit(group)
        self.durable.update(op.message.payload for op in group if isinstance(op, Append))
        await self.answer.pass_()

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]:
        await self.read.pass_()
        found = await super().read_inbox(user, after, limit, max_bytes)
        await self.reply.pass_()
        return found

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        await self.read.pass_()
        found = await super().read_tail(after_id, limit, max_bytes)
        await self.reply.pass_()
        return found


class Wire:
    """A transport that a client reads at once; while ``frozen`` it counts as above its high-water mark."""

    def __init__(self, device: Peer) -> None:
        self._device = device
        self.closing = False
        self.connection: Connection

    def write(self, data: bytes) -> None:
        try:
            assert not self.closing, "written after close"
            self._device.received(data)
        except AssertionError as error:  # the broker would take it for a fault of its own, and go on
            self._device.world.problems.append(f"{self._device.client_id}: {error}")

    def set_write_buffer_limits(self, high: int) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> Any:
        return ("test", 1) if name == "peername" else None

    def pause_reading(self) -> None:
        """What a script sends, it sends all the same: as what the kernel had already."""

    def resume_reading(self) -> None:
        """Nothing was stopped."""

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    abort = close


class Peer:
    """A client: one connection after the other."""

    def __init__(self, world: World, client_id: str, *, durable: bool) -> None:
        self.world = world
        self.client_id = client_id
        self.durable = durable
        self.wire: Wire | None = None
        self.connection: Connection | None = None
        self.packets: list[Packet] = []
        self._decoder = Decoder("client", version=4)

    def connect(self) -> None:
        if self.wire is not None and not self.wire.closing:
            return
        self._decoder = Decoder("client", version=4)
        self.wire = Wire(self)
        self.connection = self.wire.connection = Connection(self.world.server, "test")
        self.connection.connection_made(self.wire)
        self.began()
        self.send(Connect(self.client_id, 4, clean_start=not self.durable))

    def began(self) -> None:
        """A new connection is open."""

    def lose(self) -> None:
        """The network is gone."""
        if self.wire is not None and not self.wire.closing:
            assert self.connection is not None
            self.wire.closing = True
            self.connection.connection_lost(ConnectionResetError())

    def send(self, *packets: Packet) -> None:
        if self.wire is not None and not self.wire.closing:
            assert self.connection is not None
            self.connection.data_received(b"".join(encode(packet, 4) for packet in packets))

    def freeze(self) -> None:
        if self.connection is not None and self.connection.writable:
            self.connection.pause_writing()

    def thaw(self) -> None:
        if self.connection is not None and self.wire is not None and not self.wire.closing and not self.connection.writable:
            self.connection.resume_writing()

    def received(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            self.packets.append(packet)
            self.got(packet)
        assert self._decoder.error is None, self._decoder.error

    def got(self, packet: Packet) -> None:
        """A packet came."""


class Sender(Peer):
    """Publishes; an acknowledgement must mean that the message is durable."""

    def __init__(self, world: World, client_id: str) -> None:
        super().__init__(world, client_id, durable=False)
        self._last = 0
        self._payloads: dict[int, bytes] = {}

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        self._last += 1
        self._payloads[self._last] = payload
        self.send(Publish(topic, payload, qos, packet_id=self._last if qos else 0))

    def got(self, packet: Packet) -> None:
        if isinstance(packet, PubAck | PubRec):
            assert self._payloads[packet.packet_id] in self.world.storage.durable, "acknowledged and not durable"
        if isinstance(packet, PubRec):
            self.send(PubRel(packet.packet_id))


class Device(Peer):
    """Subscribes and acknowledges as the script says, and checks each message as a client can."""

    def __init__(self, world: World, client_id: str, *, durable: bool, member: bool = False) -> None:
        super().__init__(world, client_id, durable=durable)
        self.member = member
        """Of a group: what it did not acknowledge at QoS 1 goes back to the group, which may choose it again (4.8.2)."""
        self.first: list[bytes] = []
        """Each message's payload, when it came first."""
        self.unanswered: deque[Packet] = deque()
        self.done: set[bytes] = set()
        """Payloads whose handshake we ended."""
        self._ids: dict[int, bytes] = {}
        """Packet ids in use, as far as we can know."""
        self._ending: set[int] = set()
        """Packet ids that end with the connection."""
        self._this_time: set[bytes] = set()
        self._packet_id = 0

    def began(self) -> None:
        self.unanswered.clear()
        self._this_time.clear()
        for packet_id in self._ending:
            self._ids.pop(packet_id, None)
        self._ending.clear()
        if not self.durable:
            self.first.clear()
            self._ids.clear()
            self.done.clear()

    def subscribe(self, name: str, qos: int) -> None:
        self._packet_id += 1
        self.send(SubscribePacket(self._packet_id, [(name, qos)]))

    def got(self, packet: Packet) -> None:
        if isinstance(packet, PubRel):
            self.unanswered.append(packet)
        if not isinstance(packet, Publish):
            return
        payload = packet.payload
        assert payload in self.world.storage.durable, "delivered and not durable"
        assert payload not in self._this_time, "twice over one connection"
        assert payload not in self.done, "acknowledged, and yet sent again"
        self._this_time.add(payload)
        if payload in self.first:
            anew = self.member and packet.qos == 1
            assert packet.dup or anew, "sent again without DUP"
            assert self._ids.get(packet.packet_id) == payload or anew, "sent again under another identifier"
        else:
            self.first.append(payload)
        if packet.qos:
            assert self._ids.get(packet.packet_id, payload) == payload, "the identifier is in use"
            self._ids[packet.packet_id] = payload
            self.unanswered.append(packet)
            if self.member and packet.qos == 1:
                self._ending.add(packet.packet_id)

    def answer(self, index: int) -> None:
        """Acknowledge one of what waits, not necessarily the oldest."""
        if not self.unanswered or self.wire is None or self.wire.closing:
            return
        self.unanswered.rotate(-(index % len(self.unanswered)))
        packet = self.unanswered.popleft()
        if isinstance(packet, PubRel):
            payload = self._ids.pop(packet.packet_id, None)
            if payload is not None:
                self.done.add(payload)
            self.send(PubComp(packet.packet_id))
        elif isinstance(packet, Publish) and packet.qos == 1:
            self.done.add(self._ids.pop(packet.packet_id))
            self._ending.discard(packet.packet_id)
            self.send(PubAck(packet.packet_id))
        elif isinstance(packet, Publish):
            self.send(PubRec(packet.packet_id))


class World:
    """A server, a sender and devices; and what happened in the pipeline, in order."""

    def __init__(self, **sections: Any) -> None:
        limits = {"connect_pace": 0, **sections.pop("limits", {})}  # a script's time are rounds of the event loop, no seconds
        self.server = Server(settings(limits=limits, **sections))
        self.storage = Scripted()
        self.problems: list[str] = []
        self.loud = Loud()
        self.events: list[tuple[Any, ...]] = []
        """("message", topic, payload) and ("filter", connection, name), at their places in the order."""

    async def start(self) -> None:
        server = self.server
        for gate in self.storage.gates:
            gate.free = True
        logging.getLogger("broker").addHandler(self.loud)
        await server.start()
        server.commits._storage = server.storage = server.delivery.reader = self.storage
        for gate in self.storage.gates:
            gate.free = False
        path, apply = server.publish_path, SubscribeStep.apply
        number = path.number

        def routed(publication: Publication) -> None:
            number(publication)
            self.events.append(("message", publication.message.topic, publication.message.payload))

        def applied(step: SubscribeStep) -> Any:
            operations = apply(step)
            self.events.extend(("filter", step._request.session, granted.filter) for granted in step._granted)
            return operations

        path.number = routed  # type: ignore[method-assign]
        self._restore: Callable[[], None] = lambda: setattr(SubscribeStep, "apply", apply)
        SubscribeStep.apply = applied  # type: ignore[method-assign, assignment]

    async def stop(self) -> None:
        self._restore()
        await self.server.stop()
        logging.getLogger("broker").removeHandler(self.loud)

    def due(self, device: Device) -> list[bytes]:
        """What the device must have been given by the end, in order: to a clean session, of its last connection."""
        names: list[str] = []
        wanted = []
        session = device.connection.session if device.connection is not None else None
        for kind, one, two in self.events:
            if kind == "filter":
                if one.key.client_id == device.client_id and (device.durable or one is session):
                    names.append(two)
            elif any(matches(name, one) for name in names):
                wanted.append(two)
        return wanted

    async def turn(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def quiesce(self, devices: list[Device]) -> None:
        """Open every gate, and let everybody finish."""
        for gate in self.storage.gates:
            gate.open()
        still = 0
        for device in devices:
            device.connect()
        while still < 50:
            assert not any(device.wire is None or device.wire.closing for device in devices), "the broker closed a connection"
            assert self.loud.lines == [], "the broker met a fault of its own"
            before = (len(self.events), sum(len(device.packets) for device in devices))
            for device in devices:
                device.thaw()
                while device.unanswered:
                    device.answer(0)
            await self.turn(3)
            still = still + 1 if before == (len(self.events), sum(len(d.packets) for d in devices)) else 0
        assert all(device.connection is not None and device.connection.open for device in devices), "not everybody got in"
