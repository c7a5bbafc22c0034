"""The frames of one WebSocket, a server's side (RFC 6455, section 5): bytes in, payloads out, and no socket.

- A client's frames are masked (5.1), ours are not. Only binary ones, and what goes on with them, carry MQTT [MQTT-6.0.0-1].
- Where frames begin and end means nothing to MQTT [MQTT-6.0.0-2]: the payloads of all that came whole are one piece, so that
  a client that sends each packet in a frame of its own costs hardly more than one that does not.
- A frame, and a message of several, may hold so many bytes; what its head says is refused before it came.
- What a client sent before its Close, or before it broke the rules, counts; nothing behind that does.

Why not the library's (decision 20): for each frame it makes a record, two enumerations and six steps of generators, which
was two thirds of what a message by WebSocket cost.
"""

from __future__ import annotations

from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it was not compiled
    from websockets.utils import apply_mask

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
INVALID_DATA: Final = 1007
TOO_LARGE: Final = 1009

_CONT: Final = 0x0
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_CONTROL: Final = 0x8
_MASKED: Final = 0x80
_WHOLE: Final = _FIN | _BINARY
_SHORT: Final = 125  # bytes of a payload whose length is in the second byte; a control frame has no more (5.5)
_CODES: Final = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)))  # that may be sent (7.4)

_heads: Final = [bytes((_WHOLE, length)) for length in range(_SHORT + 1)]


def head(length: int) -> bytes:
    """What stands before a payload of so many bytes, in a whole binary message."""
    if length <= _SHORT:
        return _heads[length]
    if length < 1 << 16:
        return bytes((_WHOLE, 126, length >> 8, length & 0xFF))
    return bytes((_WHOLE, 127)) + length.to_bytes(8, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    """A Close; of the reason, which is ASCII, as much as fits."""
    return _closing(code.to_bytes(2, "big") + reason.encode("ascii")[: _SHORT - 2])


def _closing(payload: bytes) -> bytes:
    return bytes((_FIN | _CLOSE, len(payload))) + payload


class Fault:
    """How a client broke the rules."""

    __slots__ = ("code", "text")

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        """Of the Close that tells the client."""
        self.text = text


class Frames:
    """What comes from one client. No message may be larger than ``limit``, in bytes."""

    __slots__ = ("_came", "_goes_on", "_kept", "_limit", "_missing", "answer", "fault", "over", "pongs")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: bytearray | None = None  # of a frame that has come in part; not as it came, which may be byte by byte
        self._missing = 0  # bytes of it, at least, that have to come
        self._goes_on = False  # a message of several frames
        self._came = 0  # bytes of it
        self.over = False
        """Nothing more is taken in: the client's Close has come, or a fault."""
        self.fault: Fault | None = None
        self.pongs: list[bytes] | None = None
        """Frames that answer what came; whoever sends them sets it to None."""
        self.answer = b""
        """Once it is over: the Close that says so, where none was sent."""

    def feed(self, data: bytes) -> bytes:
        """Bytes came, and it is not over; what the frames that they complete carry. Look at `over` and `pongs` then."""
        if self._kept is not None:
            self._kept += data
            self._missing -= len(data)
            if self._missing > 0:
                return b""
            data = bytes(self._kept)
            self._kept = None
        at, end = 0, len(data)
        first: bytes = b""
        more: list[bytes] | None = None
        while at < end:
            if end - at < 2:
                self._keep(data, at, 2)
                break
            kind, length = data[at], data[at + 1]
            if (kind != _WHOLE or self._goes_on or length < _MASKED) and self._wrong(kind, length):
                break
            length -= _MASKED
            begins = at + 6
            if length > _SHORT:
                begins += 2 if length == 126 else 8
                if end < begins - 4:
                    self._keep(data, at, begins - 4 - at)
                    break
                length = int.from_bytes(data[at + 2 : begins - 4], "big")
            if length > self._limit - self._came and not kind & _CONTROL:
                self._broke(TOO_LARGE, f"a WebSocket message of more than {self._limit} bytes")
                break
            ends = begins + length
            if ends > end:
                self._keep(data, at, ends - at)
                break
            payload = apply_mask(data[begins:ends], data[begins - 4 : begins]) if length else b""
            at = ends
            if kind != _WHOLE and not self._is_data(kind, payload):
                if self.over:
                    break
            elif not first:
                first = payload
            elif more is None:
                more = [first, payload]
            else:
                more.append(payload)
        return first if more is None else b"".join(more)

    def _keep(self, data: bytes, at: int, needed: int) -> None:
        self._kept = bytearray(data[at:])
        self._missing = needed - (len(data) - at)

    def _wrong(self, kind: int, length: int) -> bool:
        """Whether the first two bytes of a frame break the rules; looked at where they are not the common ones."""
        opcode = kind & 0x0F
        if kind & _RESERVED:
            self._broken_frame("reserved bits must be 0")
        elif opcode not in (_CONT, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
            self._broken_frame("invalid opcode")
        elif length < _MASKED:
            self._broken_frame("incorrect masking")
        elif opcode & _CONTROL:
            if length - _MASKED > _SHORT:
                self._broken_frame("control frame too long")
            elif not kind & _FIN:
                self._broken_frame("fragmented control frame")
        elif opcode == _TEXT:
            self._broke(UNSUPPORTED_DATA, "a WebSocket text frame, and MQTT needs binary frames")
        elif opcode == _BINARY and self._goes_on:
            self._broken_frame("expected a continuation frame")
        elif opcode == _CONT and not self._goes_on:
            self._broken_frame("unexpected continuation frame")
        return self.over

    def _is_data(self, kind: int, payload: bytes) -> bool:
        """A frame that is no whole message: whether it carries MQTT."""
        opcode = kind & 0x0F
        if opcode == _PING:
            pong = bytes((_FIN | _PONG, len(payload))) + payload
            if self.pongs is None:
                self.pongs = [pong]
            else:
                self.pongs.append(pong)
        elif opcode == _CLOSE:
            self._closed(payload)
        if opcode & _CONTROL:
            return False
        self._goes_on = not kind & _FIN
        self._came = self._came + len(payload) if self._goes_on else 0
        return True

    def _closed(self, payload: bytes) -> None:
        if len(payload) == 1:
            self._broken_frame("close frame too short")
            return
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if code not in _CODES:
                self._broken_frame(f"invalid close code {code}")
                return
            try:
                payload[2:].decode()
            except UnicodeDecodeError:
                self._broke(INVALID_DATA, "broken WebSocket frame: the reason of a close is not UTF-8")
                return
        if self._goes_on:
            self._broken_frame("incomplete fragmented message")
            return
        self.over = True
        self.answer = _closing(payload)  # repeats the client's (5.5.1)

    def _broken_frame(self, how: str) -> None:
        self._broke(PROTOCOL_ERROR, f"broken WebSocket frame: {how}")

    def _broke(self, code: int, text: str) -> None:
        self.over = True
        self.fault = Fault(code, text)
        self.answer = close_frame(code, text)
