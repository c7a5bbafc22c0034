"""MQTT over WebSocket (MQTT 5.0 and 3.1.1, chapter 6), without a task per connection.

- The request that opens it, and what of it is refused: `broker.net.upgrade`. The frames, binary ones only: `websocket_frames`.
  What arrives is handed on as it comes.
- The handshake must be complete within ``handshake_timeout``; the path must be the listener's. A browser sends the origin of
  the page that connects, and lets any page: which may is asked of `Origins` (RFC 6455 10.2).
- What the client sent before its Close frame counts (RFC 6455 5.5.1), and nothing behind ours does. While reading is paused,
  the end waits with the packets that it came behind.

`WebSocketProtocol` stands between the socket and the MQTT connection, which writes to it: each write becomes one binary frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

from websockets.http11 import Request

from broker.clock import NO_SLOT, Wheel
from broker.config import Origins, refusal
from broker.net.stream import MqttConnection, Stream
from broker.net.upgrade import answered
from broker.net.websocket_frames import NORMAL, TOO_LARGE, Frames, close_frame, head
from broker.packets import protocol_of, shown

CLOSE_TIMEOUT = 5.0  # seconds for the peer to answer our close frame
_HEAD_LIMIT: Final = 1 << 16  # bytes of a handshake request
_PONG_ROOM: Final = 1 << 16  # bytes in the write buffer above which pings go unanswered
_LARGE: Final = 1 << 15  # bytes whose copy behind a frame's head costs more than to write both as they are


class Door(NamedTuple):
    """What a listener asks of a request. ``secure``: whether it came by TLS of ours."""

    path: str
    origins: Origins
    secure: bool

    def refusal(self, request: Request) -> tuple[int, str] | None:
        """(status, why); None for who may come in."""
        path = request.path.partition("?")[0]
        if path != self.path:
            return 404, f"path {shown(path)}; MQTT is at {self.path}"
        origins, hosts = request.headers.get_all("Origin"), request.headers.get_all("Host")
        if len(origins) > 1 or len(hosts) > 1:
            return 400, "more than one Origin or Host"
        if origins and not self.origins.takes(origins[0], "".join(hosts), secure=self.secure):
            return 403, refusal(origins[0])
        return None


class WebSocketProtocol:
    """One socket's protocol, and the transport of the MQTT connection. ``make`` makes that once the handshake is done, within
    ``timeout`` seconds by ``clock``."""

    __slots__ = (
        "_clock",
        "_connection",
        "_door",
        "_ended",
        "_ends_later",
        "_frames",
        "_head",
        "_make",
        "_stream",
        "_transport",
        "closing",
        "paused",
        "wheel_slot",
    )

    def __init__(
        self,
        stream: Stream,
        door: Door,
        max_message: int,
        clock: Wheel,
        timeout: float,
        make: Callable[[Stream], MqttConnection],
    ) -> None:
        self._stream = stream
        self._door = door
        self._make = make
        self._head = b""
        self._frames = Frames(max_message)
        self._connection: MqttConnection | None = None
        self._transport: asyncio.Transport
        self._clock = clock
        self.wheel_slot: int = NO_SLOT
        self.closing = True
        """Whether nothing more is sent: before the handshake is done, and from a Close on, whoever sent it."""
        self._ended = False  # we closed, or broke off: nothing that comes counts
        self._ends_later = False  # the client closed; the MQTT connection is not done with what came before
        self.paused = False
        self._start_timer(timeout)

    # --- from the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._connection is None:
            data = self._handshake(data)
        frames = self._frames
        if self._connection is None or not data or frames.answer:  # it is over: nothing that follows counts
            return
        received = frames.feed(data)
        if received and not self._ended:
            self._connection.data_received(received)
        if frames.pongs is not None:
            self._pong(frames.pongs)
            frames.pongs = None
        if frames.over:
            self._over()

    def eof_received(self) -> bool | None:
        """The client sends no more; the transport closes by itself."""
        if self._connection is None and self._head:
            self._refused("it left in the middle of the WebSocket handshake")
        self.closing = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.forget(self)
        self.closing = self._ended = True
        self._ends_later = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.connection_lost(exc)

    def write_failed(self, rest: asyncio.Transport) -> None:
        self._transport = rest
        if self.paused:
            rest.pause_reading()
        if self._connection is not None:
            self._connection.write_failed(cast(asyncio.Transport, self))

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.resume_writing()

    # --- the handshake ---------------------------------------------------------------------------------------------

    def _handshake(self, data: bytes) -> bytes:
        """Gather the request; once it is whole and accepted, make the connection. What came behind the request is returned."""
        transport = self._transport
        if self._ended or transport.is_closing():
            return b""
        came = self._head = self._head + data
        request, end, rest = came.partition(b"\r\n\r\n")
        if not came.startswith(b"GET "[: len(came)]):
            self._refused(f"{protocol_of(came)}, where a WebSocket is expected")
            transport.abort()
        elif len(request) > _HEAD_LIMIT:
            self._refused(f"a WebSocket request of more than {_HEAD_LIMIT} bytes")
            transport.abort()
        if not end or self._ended:
            return b""
        self._head = b""
        answer, refused = answered(request + end, self._door.refusal)
        transport.write(answer)
        if refused:
            self._refused(f"WebSocket handshake refused: {refused}")
            self._end_stream(transport, failed=True)
            return b""
        self._clock.forget(self)
        self.closing = False
        self._connection = self._make(self._stream)
        self._connection.connection_made(cast(asyncio.Transport, self))
        return rest

    def _refused(self, why: str) -> None:
        self._ended = True
        self._stream.handshake_failed(why)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _pong(self, pongs: list[bytes]) -> None:
        """Answer pings. Those of a peer who wants them, and does not read, are dropped."""
        transport = self._transport
        if not transport.is_closing() and (self.closing or transport.get_write_buffer_size() <= _PONG_ROOM):
            transport.write(b"".join(pongs))

    def _over(self) -> None:
        """The client's Close has come, or a fault: answer. Nothing more is exchanged, once the MQTT connection is done with
        what came before."""
        transport, frames = self._transport, self._frames
        fault = frames.fault
        if not self.closing and not transport.is_closing():
            transport.write(frames.answer)
        self.closing = True
        if self.paused and not self._ended:
            self._ends_later = True
        else:
            self._end_stream(transport, failed=fault is not None)

    def _end_stream(self, transport: asyncio.Transport, *, failed: bool) -> None:
        """Nothing more is written. A peer that reads nothing, or never ends its own stream, gets `CLOSE_TIMEOUT`."""
        self._ended, self._ends_later = True, False
        fault = self._frames.fault
        if self._connection is not None and fault is not None:
            self._connection.broken(fault.text, too_large=fault.code == TOO_LARGE)
        if failed and transport.can_write_eof():
            transport.write_eof()  # to close with its bytes unread would reset, and lose the reason that we gave
        else:
            transport.close()
        self._start_timer(CLOSE_TIMEOUT)

    def fire(self) -> None:
        """What had to come has not come in time: the request, or the peer's answer to our Close."""
        if self._connection is None and not self._ended:
            self._refused("the WebSocket handshake was not completed in time")
        self._transport.abort()

    def _start_timer(self, seconds: float) -> None:
        self._clock.forget(self)
        self._clock.put(self, self._clock.now() + seconds)

    # --- from the MQTT connection ----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """One binary frame; silently nothing once the stream is closing, as with any asyncio transport."""
        size = len(data)
        if self.closing or not size:
            return
        if size < _LARGE:
            self._transport.write(head(size) + data)
        else:
            self._transport.writelines([head(size), data])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        pieces = list(list_of_data)
        size = sum(map(len, pieces))
        if self.closing or not size:
            return
        pieces.insert(0, head(size))
        if size < _LARGE:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    def close(self) -> None:
        """Send what was written, then a Close; the socket is closed when the peer answers, or after `CLOSE_TIMEOUT`."""
        transport = self._transport
        if self._connection is None or self._ended:
            return
        self._ended = True
        if self.paused and not self._ends_later:
            self.resume_reading()  # for the peer's answer
        if not self.closing:
            self.closing = True
            if not transport.is_closing():
                transport.write(close_frame(NORMAL))
            self._start_timer(CLOSE_TIMEOUT)
        elif self._ends_later:
            self._end_stream(transport, failed=False)

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self.closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        self.paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self.paused = False
        if self._ends_later:
            self._end_stream(self._transport, failed=False)
        else:
            self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)
