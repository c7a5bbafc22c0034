"""One client's socket, and what must be true of it whatever serves it: MQTT, a WebSocket around it, TLS around either.

- **What a client sent before it left counts.** Its end comes behind its last bytes, never before them, and while reading is
  paused it waits with them (law 6).
- A client that leaves in order while something is written to it resets the connection. That write fails before the client's
  last bytes, its DISCONNECT among them, were read; the event loop would drop them, and a will would be sent that must not be
  [MQTT-3.14.4-3]. So they are read from the broken socket first (`Unread`).
- No task per connection, and nothing in between on the way out: what is served writes to the event loop's own transport.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from broker.net.admission import Admission

READ = 1 << 18  # bytes read at once, as the event loops do


class Connection(Protocol):
    """What serves one client: called as an `asyncio.Protocol` is, and once more where its writes fail."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool | None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def write_failed(self, rest: asyncio.Transport) -> None:
        """The client takes nothing more. What it had sent is still to be read, from now on by way of this transport."""


class MqttConnection(Connection, Protocol):
    """What serves one client's MQTT, by whatever carries it."""

    def broken(self, why: str, *, too_large: bool) -> None:
        """The client broke the rules of what carries MQTT, and was told there: nothing more is exchanged."""


def _nobody(data: bytes) -> None:
    """What comes is for nobody."""


class Stream:
    """One accepted socket, as an `asyncio.Protocol` but for its base: passes everything on. ``make`` makes what serves it.

    What comes is given right to what serves: where a fleet has a message each now and then, one more call is one for each.
    """

    __slots__ = (
        "_aborted",
        "_admission",
        "_make",
        "_served",
        "certificate",
        "certified",
        "common_name",
        "data_received",
        "peer",
        "transport",
    )

    def __init__(self, admission: Admission, peer: str, make: Callable[[Stream], Connection]) -> None:
        self.data_received: Callable[[bytes], None] = _nobody
        self._admission = admission
        self._make: Callable[[Stream], Connection] | None = make
        self._served: Connection | None = None
        self._aborted = False
        self.peer = peer
        """The client's address, ``host:port``."""
        self.common_name = ""
        """Of the client's certificate, where a proxy verified one."""
        self.certificate: tuple[bytes, int] | None = None
        """Issuer and serial number of the client's certificate, where it may be taken back while the connection lasts."""
        self.certified = ""
        """The user that the client's certificate names; empty where none does."""
        self.transport: asyncio.Transport | None = None

    @property
    def host(self) -> str:
        """The client's address, without brackets."""
        return self.peer.rpartition(":")[0].strip("[]")

    def comes_from(self, address: tuple[str, int]) -> None:
        """The client is behind a proxy, which names its address."""
        self.peer = shown(address)

    def hand_over(self, served: Connection) -> None:
        """From now on this serves the client."""
        self._served = served
        self.data_received = served.data_received
        if self.transport is not None:
            self.transport.set_protocol(cast(asyncio.Protocol, self))  # uvloop looks that up once

    def handshake_failed(self, why: str) -> None:
        """Say, and count, why the client did not get as far as MQTT."""
        self._admission.handshake_failed(self.peer, why)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._aborted = True
        if self.transport is not None:
            self.transport.abort()

    # --- asyncio's callbacks -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if self._aborted:
            self.transport.abort()
            return
        assert self._make is not None
        served, self._make = self._make(self), None
        self.hand_over(served)
        served.connection_made(self.transport)

    def eof_received(self) -> bool | None:
        return self._served.eof_received() if self._served is not None else None

    def pause_writing(self) -> None:
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        if self._served is not None:
            self._served.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None or self._aborted or self._served is None or self.transport is None:
            self.ended(exc)
            return
        try:
            rest = Unread(self, self.transport, exc)
        except OSError:  # no file descriptor is left
            self.ended(exc)
            return
        self.transport = cast(asyncio.Transport, rest)
        self._served.write_failed(self.transport)

    # --- the end -----------------------------------------------------------------------------------------------------

    def ended(self, exc: Exception | None) -> None:
        """Nothing more comes."""
        served, self._served = self._served, None
        self.data_received = _nobody
        self._admission.leave(self)
        if served is not None:
            served.connection_lost(exc)


def shown(address: tuple[Any, ...]) -> str:
    """``host:port``, with an IPv6 address, which has four parts, in brackets; ``unix:/path`` as it is."""
    host: str = address[0]
    if host.startswith("unix:"):
        return host
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


class Unread:
    """A transport for what is left of a socket that broke while it was written to: what the client had sent is read to the
    end, then its stream has ended.

    Made in ``connection_lost``, while the event loop still has the socket open; later it would be too late. Nothing new can
    come: the client's end of the connection is gone. Raises OSError where there is no file descriptor to hold the socket by.
    """

    __slots__ = ("_error", "_loop", "_paused", "_scheduled", "_socket", "_stream")

    def __init__(self, stream: Stream, broken: asyncio.Transport, error: Exception) -> None:
        self._stream = stream
        self._error: Exception | None = error
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(fileno=os.dup(broken.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._paused = False
        self._scheduled = False
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        if self.is_open and not self._paused:
            try:
                data = self._socket.recv(READ)
            except OSError:  # reset, or nothing there
                data = b""
            if data:
                self._stream.data_received(data)
                self._schedule()
            else:
                self._end()

    def _end(self) -> None:
        if self.is_open:
            self._socket.close()
            self._stream.ended(self._error)

    @property
    def is_open(self) -> bool:
        return self._socket.fileno() >= 0

    # --- the face of a transport that is closing --------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """What is read goes by the stream in any case."""

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._schedule()

    def close(self) -> None:
        self._error = None
        self._loop.call_soon(self._end)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return True

    def write(self, data: Any) -> None:
        """Nobody takes it."""

    def writelines(self, list_of_data: Any) -> None:
        """Nor this."""

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default
