"""Bytes that a stranger sends, and what must hold whatever they are: nothing is raised, and where they are split means
nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from broker.clock import Wheel
from broker.config.origins import Origins
from broker.counters import Counters
from broker.net.admission import Admission
from broker.net.proxy_header import BadHeader, read
from broker.net.stream import Stream
from broker.net.websocket import Door, WebSocketProtocol
from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import Packet, each
from tests.packets.cases import HOSTILE, OPENING

HANDSHAKE = (
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)

FRAMES = (
    b"\x82\x82\0\0\0\0\xc0\0",
    b"\x82\xfe\0\x80\1\2\3\4" + bytes(128),
    b"\x82\xff" + (128).to_bytes(8, "big") + bytes(4 + 128),
    b"\2\x81\0\0\0\0\xc0\x89\x81\0\0\0\0p\x80\x81\0\0\0\0\0",  # in two, and a ping between them
    b"\x8a\x80\0\0\0\0\x88\x80\0\0\0\0",
    b"\x88\x85\0\0\0\0\3\xe8bye",
    b"\x88\2\3\xe8",  # not masked
    b"\x82\xfe\5\0\0\0\0\0",  # too large
)
"""What a client may send once it is let in, and what it may not."""


def pieces(data: bytes) -> list[bytes]:
    """The first bytes say where the rest is split."""
    cuts, data = data[:3], data[3:]
    at = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def codec(data: bytes) -> None:
    """A client's stream: each packet that is found survives the way back."""
    parts = pieces(data)
    split, whole = Decoder("server"), Decoder("server")
    found = list(each(packet for part in parts for packet in split.feed(part)))
    assert found == list(each(whole.feed(b"".join(parts))))
    assert (split.error is None) == (whole.error is None)
    if (
        split.error is not None and whole.error is not None and found
    ):  # at the first byte it is refused before the rest has come
        assert split.error.code == whole.error.code
    for packet in found:
        again: list[Packet] = Decoder("server", version=whole.version).feed(encode(packet, whole.version))
        if again:  # a CONNECT alone may come first
            assert again == [packet]


def proxy(data: bytes) -> None:
    """A PROXY header: no beginning of it is taken for another one."""

    def header(some: bytes) -> object:
        try:
            found = read(some)
        except BadHeader:
            return BadHeader
        return None if found is None else found[0]

    last = header(data)
    for length in {cut % (len(data) + 1) for cut in data[:4]}:
        early = header(data[:length])
        assert early is None or early == last


class _Socket(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.written = b""

    def write(self, data: Any) -> None:
        assert data
        self.written += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class _Inside:
    """The connection: hears, and says nothing."""

    def __init__(self) -> None:
        self.carried = b""
        self.faults: list[tuple[str, bool]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.faults
        self.carried += data

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    resume_writing = pause_writing

    def write_failed(self, rest: asyncio.Transport) -> None:
        raise AssertionError("nothing failed")

    def broken(self, why: str, *, too_large: bool) -> None:
        self.faults.append((why, too_large))


_LOOP = asyncio.new_event_loop()
_ADMISSION = Admission("fuzzed", 0, Counters())
_DOOR = Door("/mqtt", Origins(), False)
_LARGEST = 1 << 10
"""Bytes that a message may have: fewer than the fuzzer sends."""


async def _came_of(parts: Iterable[bytes]) -> object:
    """What the connection is given, what it is told, and what the client is; of the head of an answer, which says when it was
    given, the first line."""
    inside, socket = _Inside(), _Socket()
    stream = Stream(_ADMISSION, "192.0.2.1:1", lambda _: inside)
    protocol = WebSocketProtocol(stream, _DOOR, _LARGEST, Wheel(_LOOP), 10.0, lambda _: inside)
    protocol.connection_made(socket)
    for part in parts:
        if part:
            protocol.data_received(part)
    answer, _, written = socket.written.partition(b"\r\n\r\n")
    ended = socket.closed
    protocol.eof_received()
    protocol.connection_lost(None)
    return inside.carried, inside.faults, answer.partition(b"\r\n")[0], written, ended


def websocket(data: bytes) -> None:
    """A request and frames: nothing of it gets past the protocol as an exception, and the same comes of it in pieces."""
    asyncio.set_event_loop(_LOOP)
    parts = pieces(data)
    assert _LOOP.run_until_complete(_came_of(parts)) == _LOOP.run_until_complete(_came_of([b"".join(parts)]))


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "codec": (codec, [b"\1\2\3" + OPENING[case.version] + case.data for case in HOSTILE]),
    "proxy": (
        proxy,
        [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 1883\r\nrest",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x03\xe8\x07\x5brest",
        ],
    ),
    "websocket": (
        websocket,
        [
            cuts + HANDSHAKE + frames
            for cuts in (b"\0\0\0", bytes((len(HANDSHAKE) + 1, len(HANDSHAKE) + 3, len(HANDSHAKE) + 9)))
            for frames in FRAMES
        ]
        + [b"\1\2\3G\r\n\r\n"],  # no request, of which the first byte alone may be one's beginning
    ),
}
"""By name: what takes the bytes, and bytes to begin with."""
