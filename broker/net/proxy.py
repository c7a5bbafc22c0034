"""A balancer in front of a listener says who connects, before anything else (`broker.net.proxy_header`).

- Only addresses that the configuration names may say so, and from them nothing is taken without a header: whoever else could
  pass for anybody.
- From then on the client's own address is the connection's: in the log, for limits, and for plugins.
- Behind the header comes what comes without a proxy (TLS, WebSocket, MQTT), and nothing stays in between.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence

from broker.clock import NO_SLOT, Wheel
from broker.net.client_certificates import NotAccepted
from broker.net.proxy_header import BadHeader, Header, read
from broker.net.stream import Connection, Stream

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyProtocol:
    """The first bytes of one socket. ``make`` makes what serves it once the header was read, within ``timeout`` seconds by
    ``clock``."""

    __slots__ = ("_clock", "_data", "_ended", "_make", "_stream", "_timeout", "_transport", "_trusted", "wheel_slot")

    def __init__(
        self,
        stream: Stream,
        trusted: Sequence[Network] | None,
        clock: Wheel,
        timeout: float,
        make: Callable[[Stream], Connection],
    ) -> None:
        self._stream = stream
        self._trusted = trusted
        self._make = make
        self._data = b""
        self._ended = False
        self._transport: asyncio.Transport
        self._clock = clock
        self._timeout = timeout
        self.wheel_slot: int = NO_SLOT

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._clock.put(self, self._clock.now() + self._timeout)
        if self._trusted is not None:
            address = ipaddress.ip_address(self._stream.host.partition("%")[0])
            if not any(address in network for network in self._trusted):
                self._fail(f"connection refused, {address} is not in proxy_from")

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._data += data
        try:
            found = read(self._data)
        except BadHeader as error:
            self._fail(str(error))
            return
        if found is not None:
            self._data = b""
            self._go_on(*found)

    def _go_on(self, header: Header, rest: bytes) -> None:
        self._clock.forget(self)
        stream = self._stream
        if header.source is not None:
            stream.comes_from(header.source)
        stream.common_name = header.common_name
        try:
            served = self._make(stream)
        except NotAccepted as error:
            self._fail(str(error))
            return
        stream.hand_over(served)
        served.connection_made(self._transport)
        if rest:
            served.data_received(rest)

    def eof_received(self) -> bool | None:
        if self._data and not self._ended:  # a look whether the port is open is no failure
            self._stream.handshake_failed("it left in the middle of the PROXY header")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._clock.forget(self)

    def write_failed(self, rest: asyncio.Transport) -> None:
        rest.close()  # nothing was written

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """Nor then."""

    def _fail(self, why: str) -> None:
        self._ended = True
        self._stream.handshake_failed(why)
        self._transport.abort()

    def fire(self) -> None:
        """The header has taken too long."""
        self._fail("the PROXY header did not come in time")
