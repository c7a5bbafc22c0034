"""The sockets that clients connect to: TCP, TLS, WebSocket and secure WebSocket, several at once.

A listener makes one `Connection` per client and feeds it; it knows nothing of MQTT. No task per connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from broker.config import Certificate, Listener
from broker.counters import Counters
from broker.errors import StartError
from broker.net.accept import Acceptor, shown
from broker.net.gate import Gate, descriptors
from broker.net.stream import Connection, Stream
from broker.net.tls import TlsProtocol
from broker.net.websocket import WebSocketProtocol

logger = logging.getLogger(__name__)

_BACKLOG = 1024  # a fleet that reconnects at once
_LEAST_MESSAGE = 1 << 16  # a WebSocket message may hold several small packets

Address = tuple[str, int]

MakeConnection = Callable[[str, str], Connection]
"""Makes the connection of one client of the listener with this name; the other is the client's address, ``host:port``."""

Serve = Callable[[Stream], Connection]


class Listeners:
    """All listeners of a server. ``max_packet_size`` is in bytes; ``connect_timeout``, in seconds, bounds handshakes."""

    def __init__(self, *, max_packet_size: int, connect_timeout: float, counters: Counters | None = None) -> None:
        self._max_message = max(max_packet_size, _LEAST_MESSAGE)
        self._timeout = connect_timeout
        self._counters = counters if counters is not None else Counters()
        self._acceptors: list[Acceptor] = []
        self._gates: list[Gate] = []
        self._certificates: dict[str, Certificate | None] = {}

    async def open(self, settings: Sequence[Listener], make_connection: MakeConnection) -> dict[str, list[Address]]:
        """Open all, or none: listener name → addresses that it listens on (a host name may have several).

        Raises `StartError` that names the listener, its address and what to do.
        """
        addresses: dict[str, list[Address]] = {}
        _warn_of_few_descriptors(settings)
        try:
            self._certificates = {listener.name: _certificate(listener) for listener in settings}
            for listener in settings:
                certificate = self._certificates[listener.name]
                context = certificate.context if certificate is not None else None
                addresses[listener.name] = await self._listen(listener, context, make_connection)
                logger.info(
                    "listener %s: %s on %s", listener.name, kind(listener), ", ".join(map(shown, addresses[listener.name]))
                )
        except BaseException:
            self.stop_accepting()
            raise
        return addresses

    async def _listen(self, listener: Listener, context: ssl.SSLContext | None, make: MakeConnection) -> list[Address]:
        gate = Gate(listener.name, listener.max_connections, self._counters)
        served = self._inside(listener, make)
        if context is not None:
            served = self._in_tls(context, served)
        try:
            sockets = await bound(listener.host, listener.port)
        except OSError as error:
            raise StartError(f"listener {listener.name}: cannot listen on {listener.bind}: {advice(error)}") from error
        self._gates.append(gate)
        self._acceptors += [Acceptor(one, gate, lambda peer: Stream(gate, peer, served)) for one in sockets]
        return [one.getsockname()[:2] for one in sockets]

    def _inside(self, listener: Listener, make: MakeConnection) -> Serve:
        name = listener.name
        if listener.type != "ws":
            return lambda stream: make(name, stream.peer)
        path, largest, timeout = listener.path, self._max_message, self._timeout
        return lambda stream: WebSocketProtocol(stream, path, largest, timeout, lambda stream: make(name, stream.peer))

    def _in_tls(self, context: ssl.SSLContext, inside: Serve) -> Serve:
        return lambda stream: TlsProtocol(stream, context, self._timeout, inside)

    @property
    def connections(self) -> int:
        """How many sockets are open."""
        return sum(len(gate.open) for gate in self._gates)

    async def renew(self, listener: Listener) -> None:
        """Use the certificates that this listener's files hold now for handshakes from here on.

        Raises `StartError` naming what does not serve; the old ones stay.
        """
        certificate = self._certificates.get(listener.name)
        if certificate is not None and listener.tls is not None:
            await asyncio.to_thread(certificate.renew, listener.tls)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()

    async def close(self) -> None:
        """Stop accepting, and abort the connections that are still open. The caller has closed those that deserve a goodbye."""
        self.stop_accepting()
        for gate in self._gates:
            await gate.clear()
        self._gates.clear()


def _warn_of_few_descriptors(settings: Sequence[Listener]) -> None:
    most = descriptors()
    beyond = [f"{one.name} {one.max_connections}" for one in settings if one.max_connections > most]
    if beyond:
        logger.warning(
            "max_connections cannot be reached (%s): the process may have %d connections open; raise its limit of open files "
            "(ulimit -Hn, LimitNOFILE= of systemd)",
            ", ".join(beyond),
            most,
        )


async def bound(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of a host name; an empty one, or ``*``, is all of this machine's. Raises OSError."""
    loop = asyncio.get_running_loop()
    name = None if host in ("", "*") else host
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            if sockets and not port:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_listening(family, address))
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(_BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def kind(listener: Listener) -> str:
    """What a listener speaks, for people."""
    return {"tcp": ("MQTT", "MQTT over TLS"), "ws": ("WebSocket", "secure WebSocket")}[listener.type][listener.tls is not None]


def advice(error: OSError) -> str:
    """Why an address cannot be listened on, and what to do about it."""
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, socket.gaierror):
        return f"{reason}; use an address of this machine, or 0.0.0.0 for all of them"
    hint = {
        errno.EADDRINUSE: "address already in use; stop what listens there, or choose another port in bind",
        errno.EADDRNOTAVAIL: "this machine does not have that address; use one that it has, or 0.0.0.0 for all",
        errno.EACCES: "not permitted; ports below 1024 need privileges, choose a higher one",
    }
    return hint.get(error.errno or 0, reason)


def _certificate(listener: Listener) -> Certificate | None:
    if listener.tls is None:
        return None
    return Certificate(f"listener {listener.name}: tls.", listener.tls, "http/1.1" if listener.type == "ws" else "mqtt")
