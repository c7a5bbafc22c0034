"""MQTT over WebSocket (MQTT 5.0 and 3.1.1, chapter 6), without a task per connection.

- Subprotocol ``mqtt`` (``mqttv3.1`` for old clients) [MQTT-6.0.0-3, -4]; binary frames only [MQTT-6.0.0-1], a text frame
  closes with 1003. Frames and packets need not line up [MQTT-6.0.0-2]: what arrives is handed on as it comes.
- The handshake must be complete within ``handshake_timeout``; the path must be the listener's. A browser sends the origin of
  the page that connects, and lets any page: which may is asked of `Origins` (RFC 6455 10.2).
- What the client sent before its Close frame counts (RFC 6455 5.5.1), and nothing behind ours does. While reading is paused,
  the end waits with the packets that it came behind.
- A frame, and a message of several, may hold at most ``max_message`` bytes; a larger one closes with 1009.
- No compression: it would cost each connection more memory than everything else.

`WebSocketProtocol` stands between the socket and the MQTT connection, which gets a `WebSocketTransport` to write to.

Over 300 lines: one protocol of a socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from broker.clock import NO_SLOT, Wheel
from broker.config import Origins, refusal
from broker.net.stream import MqttConnection, Stream
from broker.packets import protocol_of, shown

SUBPROTOCOLS = [Subprotocol("mqtt"), Subprotocol("mqttv3.1")]
CLOSE_TIMEOUT = 5.0  # seconds for the peer to answer our close frame
_HEAD_LIMIT = 1 << 16  # bytes of a handshake request
_PONG_ROOM = 1 << 16  # bytes in the write buffer above which pings go unanswered

# websockets logs whole frames at DEBUG, and a CONNECT's frame has a password in it.
_quiet = logging.getLogger(f"{__name__}.frames")
_quiet.setLevel(logging.CRITICAL)  # what it would log, with a traceback, is in `handshake_exc`, which we log in a line


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


class WebSocketTransport(asyncio.Transport):
    """What the MQTT connection writes to: each write becomes one binary frame."""

    __slots__ = ("_protocol", "_transport")

    def __init__(self, protocol: WebSocketProtocol, transport: asyncio.Transport) -> None:
        super().__init__()
        self._protocol = protocol
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.send(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._protocol.send(b"".join(list_of_data))

    def close(self) -> None:
        """Send what was written, then a close frame, and wait a little for the peer's."""
        self._protocol.close(CloseCode.NORMAL_CLOSURE)

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._protocol.closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        self._protocol.pause_reading()

    def resume_reading(self) -> None:
        self._protocol.resume_reading()

    def is_reading(self) -> bool:
        return not self._protocol.paused

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False


class WebSocketProtocol:
    """One socket. ``make`` makes the MQTT connection once the handshake is done, within ``timeout`` seconds by ``clock``.

    The handshake is read apart from the frames, because websockets' state for it would keep the request's headers, 3 KB,
    for as long as the connection lasts.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_door",
        "_ended",
        "_ends_later",
        "_frames",
        "_head",
        "_make",
        "_max_message",
        "_stream",
        "_transport",
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
        self._max_message = max_message
        self._make = make
        self._head = b""
        self._frames: Protocol | None = None
        self._connection: MqttConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._clock = clock
        self.wheel_slot: int = NO_SLOT
        self._ended = False  # we closed, or broke off: nothing that comes counts
        self._ends_later = False  # the client closed; the MQTT connection is not done with what came before
        self.paused = False
        self._start_timer(timeout)

    # --- from the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        frames = self._frames
        if frames is None:
            data = self._handshake(data)
            frames = self._frames
        if frames is None or not data or frames.eof_sent:  # eof_sent: closing, nothing that follows counts
            return
        frames.receive_data(data)
        # `frames` is ahead: where a Close is among these frames, or a fault behind them, it is closing already.
        for event in frames.events_received():
            if isinstance(event, Frame) and not self._ended:
                self._frame(event)
        self._flush()

    def eof_received(self) -> bool | None:
        """The client sends no more; the transport closes by itself."""
        if self._frames is not None:
            self._frames.receive_eof()
        elif self._head:
            self._refused("it left in the middle of the WebSocket handshake")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.forget(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.connection_lost(exc)
        self._transport = None

    def write_failed(self, rest: asyncio.Transport) -> None:
        self._transport = rest
        if self.paused:
            rest.pause_reading()
        if self._connection is not None:
            self._connection.write_failed(WebSocketTransport(self, rest))

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
        if transport is None or self._ended or transport.is_closing():
            return b""
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not head.startswith(b"GET "[: len(head)]):
            self._refused(f"{protocol_of(head)}, where a WebSocket is expected")
            transport.abort()
        elif not end and len(head) > _HEAD_LIMIT:
            self._refused(f"a WebSocket request of more than {_HEAD_LIMIT} bytes")
            transport.abort()
        if not end or self._ended:
            return b""
        self._head = b""
        if not self._accept(head + end, transport):
            self._end_stream(transport, failed=True)
            return b""
        self._clock.forget(self)
        self._frames = Protocol(Side.SERVER, max_size=self._max_message, logger=_quiet)
        self._connection = self._make(self._stream)
        self._connection.connection_made(WebSocketTransport(self, transport))
        return rest

    def _accept(self, request: bytes, transport: asyncio.Transport) -> bool:
        """Answer the request; whether it was accepted."""
        protocol = ServerProtocol(subprotocols=SUBPROTOCOLS, logger=_quiet)
        protocol.receive_data(request)
        why = ""
        for event in protocol.events_received():
            if isinstance(event, Request):
                refused = self._door.refusal(event)
                if refused is None:
                    try:
                        protocol.send_response(protocol.accept(event))
                    except UnicodeEncodeError:  # of an answer of websockets' that quotes the header
                        refused = 400, "a header is not UTF-8"
                if refused is not None:
                    why = refused[1]
                    protocol.send_response(protocol.reject(refused[0], f"{why}\n"))
        transport.writelines(filter(None, protocol.data_to_send()))
        if protocol.state is not State.OPEN:
            self._refused(f"WebSocket handshake refused: {why or protocol.handshake_exc or 'not HTTP/1.1'}")
        return protocol.state is State.OPEN

    def _refused(self, why: str) -> None:
        self._ended = True
        self._stream.handshake_failed(why)

    # --- frames ----------------------------------------------------------------------------------------------------

    def _frame(self, frame: Frame) -> None:
        """Hand the bytes of a frame on."""
        if self._connection is None:
            return
        if frame.opcode is Opcode.TEXT:
            self.close(CloseCode.UNSUPPORTED_DATA, "MQTT needs binary frames")
            self._connection.broken("a WebSocket text frame, and MQTT needs binary frames", too_large=False)
        elif frame.opcode in (Opcode.BINARY, Opcode.CONT) and frame.data:
            self._connection.data_received(bytes(frame.data))

    def _flush(self) -> None:
        """Write what the protocol has to say. Pongs are dropped where the peer, who wants them, does not read."""
        transport, frames = self._transport, self._frames
        if transport is None or frames is None or not (writes := frames.data_to_send()):
            return
        crowded = frames.state is State.OPEN and transport.get_write_buffer_size() > _PONG_ROOM
        for data in writes:
            if not data:
                self._over(transport, failed=frames.parser_exc is not None)
            elif not (crowded and data[0] & 0x0F == Opcode.PONG) and not transport.is_closing():
                transport.write(data)

    def _over(self, transport: asyncio.Transport, *, failed: bool) -> None:
        """Nothing more is exchanged, once the MQTT connection is done with what came."""
        if self.paused and not self._ended:
            self._ends_later = True
        else:
            self._end_stream(transport, failed=failed)

    def _end_stream(self, transport: asyncio.Transport, *, failed: bool) -> None:
        """Nothing more is written. A peer that reads nothing, or never ends its own stream, gets `CLOSE_TIMEOUT`."""
        self._ended, self._ends_later = True, False
        if self._connection is not None and self._frames is not None:
            fault = self._frames.parser_exc
            if isinstance(fault, PayloadTooBig):
                self._connection.broken(f"a WebSocket message of more than {self._max_message} bytes", too_large=True)
            elif isinstance(fault, ProtocolError):
                self._connection.broken(f"broken WebSocket frame: {fault}", too_large=False)
        if failed and transport.can_write_eof():
            transport.write_eof()  # to close with its bytes unread would reset, and lose the reason that we gave
        else:
            transport.close()
        self._start_timer(CLOSE_TIMEOUT)

    # --- from the MQTT connection ----------------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._frames is None or self._frames.state is not State.OPEN

    def send(self, data: bytes) -> None:
        """One binary frame; silently nothing once the connection is closing, as with any asyncio transport."""
        frames = self._frames
        if data and frames is not None and frames.state is State.OPEN and self._transport is not None:
            frames.send_binary(data)
            self._transport.writelines(frames.data_to_send())

    def pause_reading(self) -> None:
        self.paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self.paused = False
        if self._transport is None:
            return
        if self._ends_later:
            self._end_stream(self._transport, failed=False)
        else:
            self._transport.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake; the socket is closed when the peer answers, or after `CLOSE_TIMEOUT`."""
        frames, transport = self._frames, self._transport
        if frames is None or transport is None or self._ended:
            return
        self._ended = True
        if self.paused and not self._ends_later:
            self.resume_reading()  # for the peer's answer
        if frames.state is State.OPEN:
            frames.send_close(code, reason)
            self._flush()
            self._start_timer(CLOSE_TIMEOUT)
        elif self._ends_later:
            self._end_stream(transport, failed=False)

    def fire(self) -> None:
        """What had to come has not come in time: the request, or the peer's answer to our Close."""
        if self._transport is not None:
            if self._frames is None and not self._ended:
                self._refused("the WebSocket handshake was not completed in time")
            self._transport.abort()

    def _start_timer(self, seconds: float) -> None:
        self._clock.forget(self)
        self._clock.put(self, self._clock.now() + seconds)
