"""What carries a client's MQTT to the broker: a plain socket, TLS or a WebSocket. The client's side, up to the first packet."""

from __future__ import annotations

import base64
import os
import ssl

from bench import wire

SWITCHED = b"HTTP/1.1 101"
_BINARY, _MASKED = 0x82, 0x80
_NO_MASK = bytes(4)
"""It changes no byte: masking is the generator's time, and the broker does not look whether it is this one."""


def context() -> ssl.SSLContext:
    """Trusts anybody: what a client makes of a certificate is the generator's time, not the broker's."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def upgrade() -> bytes:
    """The request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ("GET /mqtt HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}")
    return "\r\n".join((*lines, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: mqtt", "", "")).encode()


def _head(length: int) -> bytes:
    if length < 126:
        return bytes([_BINARY, _MASKED | length]) + _NO_MASK
    if length < 1 << 16:
        return bytes([_BINARY, _MASKED | 126]) + length.to_bytes(2, "big") + _NO_MASK
    return bytes([_BINARY, _MASKED | 127]) + length.to_bytes(8, "big") + _NO_MASK


def framed(data: bytes | bytearray | memoryview) -> bytes:
    """Whole packets, each in a binary frame of its own, as clients send them."""
    packets = bytearray(data)
    pieces: list[bytes | bytearray] = []
    for _, at, _, stride, count in wire.runs(packets, len(packets))[0]:
        head = _head(stride)
        for begins in range(at, at + count * stride, stride):
            pieces += (head, packets[begins : begins + stride])
    return b"".join(pieces)


class Unframed:
    """Takes the frames of a broker away from what they carry, however they are split."""

    __slots__ = ("_left", "_part")

    def __init__(self) -> None:
        self._left = 0  # bytes of the present frame's payload that have not come
        self._part = b""  # the beginning of a head

    def take(self, got: bytes | bytearray | memoryview, into: memoryview) -> int:
        """Write into ``into``, which is as long, the payload of what came; returns its length. Raises ValueError where it is no
        whole binary message."""
        data = self._part + bytes(got)
        at = filled = 0
        while at < len(data):
            if not self._left:
                head = 2 if len(data) - at < 2 else {126: 4, 127: 10}.get(data[at + 1], 2)
                if len(data) - at < head:
                    break
                if data[at] != _BINARY:
                    raise ValueError(f"WebSocket frame {data[at]:#04x}")
                self._left = data[at + 1] if head == 2 else int.from_bytes(data[at + 2 : at + head], "big")
                at += head
            piece = data[at : at + self._left]
            into[filled : filled + len(piece)] = piece
            filled, at, self._left = filled + len(piece), at + len(piece), self._left - len(piece)
        self._part = data[at:]
        return filled
