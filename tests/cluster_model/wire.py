"""A connection without a socket: what one end writes reaches the other a moment later, in order.

The broker's end is the transport of a real `broker.connection.Connection`, and lives in the node's process: what is sent to a
stopped node waits as in its kernel, and a killed node's clients see a reset.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from broker.connection import Connection
from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import Packet
from tests.cluster_model.virtual import Process, VirtualLoop

DELAY = 0.0005
"""Seconds that bytes are on their way."""


class BrokerEnd(asyncio.Transport):
    """The node's end. ``deliver`` takes what the node writes, None for its end."""

    def __init__(self, loop: VirtualLoop, process: Process, deliver: Callable[[bytes | None], None]) -> None:
        super().__init__()
        self._loop = loop
        self._process = process
        self._deliver = deliver
        self._protocol: Connection | None = None
        self._in: deque[bytes | None] = deque()
        self._out: deque[bytes | None] = deque()
        self._paused = False
        self._closing = False
        self._lost = False

    def serve(self, make: Callable[[], Connection]) -> None:
        """The client is accepted, when it has reached the node."""

        def accepted() -> None:
            self._protocol = make()
            self._protocol.connection_made(self)

        self._loop.call_later(DELAY, accepted, context=self._process.context)

    # --- from the client, in whichever context ------------------------------------------------------------------------

    def arrive(self, data: bytes | None) -> None:
        """The client sent that; None: its end."""
        self._in.append(data)
        self._loop.call_later(DELAY, self._read, context=self._process.context)

    def _read(self) -> None:
        while self._in and self._protocol is not None and not self._paused and not self._lost:
            data = self._in.popleft()
            if data is None:
                self._protocol.eof_received()
                self._lose(None)
            elif not self._closing:
                self._protocol.data_received(data)

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        if not self._lost:
            self._lost = True
            if self._protocol is not None:
                self._protocol.connection_lost(error)

    # --- to the client ------------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if not self._closing:
            self._send(bytes(data))

    def _send(self, data: bytes | None) -> None:
        self._out.append(data)
        self._loop.call_later(DELAY, self._arrived, context=_NOBODY)

    def _arrived(self) -> None:
        self._deliver(self._out.popleft())

    def cut(self) -> None:
        """The node's process is gone: so is the connection."""
        self._send(None)

    # --- the face of a transport ----------------------------------------------------------------------------------------

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._send(None)
            self._loop.call_soon(self._lose, None)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """What is written is taken at once."""

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


_NOBODY = Context()
"""What runs in no node's process."""


class Wire:
    """The client's end: packets out, and ``packet`` called with each that comes, ``ended`` once when no more will."""

    def __init__(
        self,
        end: Callable[[Callable[[bytes | None], None]], BrokerEnd],
        packet: Callable[[Packet], None],
        ended: Callable[[], None],
        version: int,
    ) -> None:
        self._decoder = Decoder("client", version=version)
        self._version = version
        self._packet = packet
        self._ended = ended
        self._end = end(self._deliver)
        self.open = True
        self.forsaken = False
        """Nobody reads this end any more, nor closes it."""

    @property
    def reads(self) -> bool:
        """Whether somebody takes what comes."""
        return self.open and not self.forsaken

    def send(self, *packets: Packet) -> None:
        """In one piece."""
        if self.reads:
            self._end.arrive(b"".join(encode(packet, self._version) for packet in packets))

    def close(self) -> None:
        """The client's end closes, without a word."""
        if self.open:
            self.open = False
            self._end.arrive(None)

    def _deliver(self, data: bytes | None) -> None:
        if not self.open:
            return
        if data is None:
            self.open = False
            self._ended()
            return
        if self.forsaken:
            return
        packets = self._decoder.feed(data)
        assert self._decoder.error is None, f"the broker sent what it may not: {self._decoder.error}"
        for packet in packets:
            if self.reads:
                self._packet(packet)
