"""Bytes that a stranger sends, and what must hold whatever they are: nothing is raised, and where they are split means
nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from broker.clock import Wheel
from broker.config.origins import Origins
from broker.net.proxy_header import BadHeader, read
from broker.net.websocket import Door, WebSocketProtocol
from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import Packet, each
from tests.packets.cases import HOSTILE, OPENING

HANDSHAKE = (
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


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

    def write(self, data: Any) -> None:
        assert data

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
    """The stream around, and the connection within: they hear, and say nothing."""

    def handshake_failed(self, why: str) -> None:
        assert why

    def connection_made(self, transport: object) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        assert data

    def connection_lost(self, exc: Exception | None) -> None:
        pass


_LOOP = asyncio.new_event_loop()


def websocket(data: bytes) -> None:
    """A request and frames: nothing of it gets past the protocol as an exception."""
    asyncio.set_event_loop(_LOOP)

    async def feed() -> None:
        inside = cast(Any, _Inside())
        protocol = WebSocketProtocol(inside, Door("/mqtt", Origins(), False), 1 << 16, Wheel(_LOOP), 10.0, lambda _: inside)
        protocol.connection_made(_Socket())
        for part in pieces(data):
            if part:
                protocol.data_received(part)
        protocol.eof_received()
        protocol.connection_lost(None)

    _LOOP.run_until_complete(feed())


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
    "websocket": (websocket, [b"\1\2\3" + HANDSHAKE + b"\x82\x82\0\0\0\0\xc0\0", b"\0\0\0" + HANDSHAKE + b"\x88\x80\0\0\0\0"]),
}
"""By name: what takes the bytes, and bytes to begin with."""
