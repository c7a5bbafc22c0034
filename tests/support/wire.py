"""A client that does nothing by itself: one socket, and the packets on it in the order in which they are sent and received."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import Any, TypeVar

from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
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
from broker.packets.properties import Properties
from storage.ending import end

TIMEOUT = 30.0
"""Seconds after which a test gives up waiting for a packet that must come."""

P = TypeVar("P", bound=Packet)


class Closed(Exception):
    """The broker closed the connection."""


class Client:
    """One connection. ``version`` is 4 or 5; packets that come are decoded as a client must, so a wrong one fails the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.version = version
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder("client", version=version)
        self._packets: deque[Packet] = deque()
        self._next_id = 0

    @classmethod
    async def open(cls, address: tuple[str, int], version: int = 4, *, receive_buffer: int = 0) -> Client:
        """A socket that has not sent anything. A small ``receive_buffer`` keeps the kernel from reading for a paused one."""
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, address)
        reader, writer = await asyncio.open_connection(sock=plain)
        return cls(reader, writer, version)

    # --- bytes -----------------------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    def send(self, *packets: Packet) -> None:
        """Write the packets with one call, so that they reach the broker as one piece as far as the kernel keeps it so."""
        self._writer.write(b"".join(encode(packet, self.version) for packet in packets))

    def send_past_the_loop(self, data: bytes) -> None:
        """It is with the kernel when this returns, and nobody has read it yet."""
        assert os.write(self._writer.get_extra_info("socket").fileno(), data) == len(data)

    async def drained(self) -> None:
        """Everything that was sent is with the kernel."""
        await self._writer.drain()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._writer.transport.get_write_buffer_size()

    def pause(self) -> None:
        """Read no more from the socket, as a frozen device does."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def receive_bytes(self, count: int, timeout: float = TIMEOUT) -> bytes:
        """So many bytes, not decoded. There must be no packet waiting that was decoded already."""
        assert not self._packets
        async with asyncio.timeout(timeout):
            return await self._reader.readexactly(count)

    async def receive(self, timeout: float = TIMEOUT) -> Packet:
        """The next packet. Raises `Closed` where the broker closed instead, TimeoutError where nothing comes."""
        async with asyncio.timeout(timeout):
            while not self._packets:
                try:
                    data = await self._reader.read(65536)
                except ConnectionError:
                    data = b""
                if not data:
                    raise Closed
                self._packets.extend(self._decoder.feed(data))
                assert self._decoder.error is None, f"the broker sent what it may not: {self._decoder.error}"
        return self._packets.popleft()

    async def expect(self, kind: type[P], timeout: float = TIMEOUT) -> P:
        """The next packet, which must be of this kind."""
        packet = await self.receive(timeout)
        assert isinstance(packet, kind), f"expected {kind.__name__}, got {packet}"
        return packet

    async def closed(self, timeout: float = TIMEOUT) -> list[Packet]:
        """Wait until the broker closes the connection; what it sent before that."""
        packets = []
        while True:
            try:
                packets.append(await self.receive(timeout))
            except Closed:
                return packets

    async def drop(self) -> None:
        """Go without a DISCONNECT, as a device does that loses its network."""
        self._writer.transport.abort()

    async def leave(self, reason: int = 0, properties: Properties | None = None) -> None:
        """Send DISCONNECT and wait until the broker has closed."""
        self.send(Disconnect(reason, properties or {}))
        await self.closed()
        self._writer.close()

    # --- exchanges ---------------------------------------------------------------------------------------------------

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    async def connect(
        self,
        client_id: str,
        *,
        clean: bool = True,
        expiry: int | None = None,
        keep_alive: int = 0,
        will: Will | None = None,
        properties: Properties | None = None,
        **more: Any,
    ) -> ConnAck:
        """CONNECT and its CONNACK. ``expiry`` is the session expiry interval of MQTT 5."""
        extra = dict(properties or {})
        if expiry is not None:
            extra[17] = expiry
        self.send(Connect(client_id, self.version, clean, keep_alive, will=will, properties=extra, **more))
        return await self.expect(ConnAck)

    async def subscribe(self, *filters: str, options: int = 0, properties: Properties | None = None) -> list[int]:
        """SUBSCRIBE with the same options byte for each filter; the reason codes. Nothing else may come first."""
        packet_id = self.new_id()
        self.send(Subscribe(packet_id, [(name, options) for name in filters], properties or {}))
        ack = await self.expect(SubAck)
        assert ack.packet_id == packet_id
        return ack.reasons

    async def unsubscribe(self, *filters: str) -> list[int]:
        packet_id = self.new_id()
        self.send(Unsubscribe(packet_id, list(filters)))
        ack = await self.expect(UnsubAck)
        assert ack.packet_id == packet_id
        return ack.reasons

    async def publish(
        self, topic: str, payload: bytes = b"", qos: int = 1, *, retain: bool = False, properties: Properties | None = None
    ) -> int:
        """PUBLISH and its whole handshake; the reason code of PUBACK or PUBREC. With QoS 0 a PINGREQ shows that it was read."""
        packet_id = self.new_id() if qos else 0
        message = Publish(topic, payload, qos, retain, False, packet_id, properties or {})
        if not qos:
            self.send(message, PingReq())  # in one piece, or the kernel may hold the second one back for 40 ms
            await self.expect(PingResp)
            return 0
        self.send(message)
        if qos == 1:
            ack = await self.expect(PubAck)
            assert ack.packet_id == packet_id
            return ack.reason
        record = await self.expect(PubRec)
        assert record.packet_id == packet_id
        if record.reason < 0x80:
            self.send(PubRel(packet_id))
            done = await self.expect(PubComp)
            assert (done.packet_id, done.reason) == (packet_id, 0)
        return record.reason

    async def ping(self) -> None:
        """PINGREQ and PINGRESP: whatever was sent before was read."""
        self.send(PingReq())
        await self.expect(PingResp)

    async def message(self, *, finish: bool = True) -> Publish:
        """The next packet, which must be a PUBLISH; its handshake is completed unless ``finish`` is off.

        What comes between PUBLISH and PUBREC is received after it, in order.
        """
        message = await self.expect(Publish)
        if finish and message.qos == 1:
            self.send(PubAck(message.packet_id))
        elif finish and message.qos == 2:
            self.send(PubRec(message.packet_id))
            between: list[Packet] = []
            while not isinstance(release := await self.receive(), PubRel):
                between.append(release)
            assert release.packet_id == message.packet_id
            self.send(PubComp(message.packet_id))
            self._packets.extendleft(reversed(between))
        return message

    async def messages(self, count: int) -> list[Publish]:
        """That many messages, of QoS 0 or 1, acknowledged."""
        return [await self.message() for _ in range(count)]

    async def quiet(self) -> None:
        """Nothing is on its way: an exchange that takes its place behind everything committed so far comes back alone."""
        await self.subscribe("quiet/nobody-publishes-here")
        await self.ping()


async def divided(members: list[Client], count: int) -> list[list[Publish]]:
    """What each member of a shared subscription is given of so many messages, none of them acknowledged."""
    given: list[list[Publish]] = [[] for _ in members]
    all_given = asyncio.Event()

    async def receive(member: Client, messages: list[Publish]) -> None:
        while True:
            messages.append(await member.expect(Publish))
            if sum(map(len, given)) == count:
                all_given.set()

    tasks = [asyncio.create_task(receive(*each)) for each in zip(members, given, strict=True)]
    try:
        async with asyncio.timeout(TIMEOUT):
            await all_given.wait()
    finally:
        await end(tasks)
    return given
