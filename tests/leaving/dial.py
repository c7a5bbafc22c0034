"""A client that sends and goes, over each kind of listener: a blocking socket, as small devices have, for a thread."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct

from websockets.frames import OP_BINARY, OP_CLOSE, Frame

from broker.packets.encoder import encode
from broker.packets.model import Connect, Packet, Subscribe, Will
from tests.support.broker import Broker
from tests.support.certificates import Certificates

KINDS = ["tcp", "tcp+tls", "ws", "ws+tls"]
TIMEOUT = 20.0

HANDSHAKE = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


class Leaver:
    """One connection of version 5. What it sends before `leave`, DISCONNECT included, must all count."""

    def __init__(self, broker: Broker, certificates: Certificates, kind: str) -> None:
        self._websocket = kind.startswith("ws")
        self._socket = socket.create_connection(broker.server.addresses[kind], TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what was sent is with the broker's kernel
        if kind.endswith("+tls"):
            self._socket = certificates.client().wrap_socket(self._socket, server_hostname="localhost")
        if self._websocket:
            self._socket.sendall(HANDSHAKE)
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += self._socket.recv(1)
            assert answer.startswith(b"HTTP/1.1 101 ")

    def connect(self, client_id: str, will: Will | None = None) -> Connect:
        return Connect(client_id, 5, True, 60, will=will, properties={})

    def bytes_of(self, *packets: Packet, close: bool = False) -> bytes:
        """The packets, each in a frame of its own where frames are spoken, and the Close frame of a client that leaves."""
        parts = [encode(packet, 5) for packet in packets]
        if self._websocket:
            parts = [Frame(OP_BINARY, part).serialize(mask=True) for part in parts]
            if close:
                parts.append(Frame(OP_CLOSE, struct.pack(">H", 1000)).serialize(mask=True))
        return b"".join(parts)

    def send(self, *packets: Packet, close: bool = False) -> None:
        """All in one write."""
        self._socket.sendall(self.bytes_of(*packets, close=close))

    def begin(self, client_id: str, will: Will | None = None, *filters: str) -> None:
        """CONNECT, and SUBSCRIBE where there are filters, with their answers."""
        self.send(self.connect(client_id, will))
        self.receive()
        if filters:
            self.send(Subscribe(1, [(name, 0) for name in filters], {}))
            self.receive()

    def receive(self) -> None:
        """Something came; it is not looked at."""
        assert self._socket.recv(1 << 16)

    def leave(self, how: str) -> None:
        """``closed``; ``orderly``: with TLS's own goodbye first; ``reset``, as the kernel does it where bytes are unread."""
        if how == "reset":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if not isinstance(self._socket, ssl.SSLSocket):
                return self._socket.close()
            os.close(self._socket.detach())
            return None
        if how == "orderly" and isinstance(self._socket, ssl.SSLSocket):
            self._socket.setblocking(False)
            with contextlib.suppress(OSError):
                self._socket.unwrap()  # sends ours, and waits for nobody's
        self._socket.close()
        return None
