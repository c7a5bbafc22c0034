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
from ipaddress import ip_network
from typing import Any

from broker.clock import Wheel
from broker.config import Certificate, CertificateWatch, Listener, Origins
from broker.counters import Counters
from broker.errors import StartError
from broker.net.accept import Acceptor
from broker.net.admission import Admission, Total, descriptors
from broker.net.client_certificates import NotAccepted, checked, read
from broker.net.proxy import ProxyProtocol
from broker.net.stream import Connection, MqttConnection, Stream, shown
from broker.net.tls import Tls, TlsProtocol
from broker.net.unix_socket import Taken, listening
from broker.net.websocket import Door, WebSocketProtocol

logger = logging.getLogger(__name__)

_BACKLOG = 1024  # a fleet that reconnects at once
_LEAST_MESSAGE = 1 << 16  # a WebSocket message may hold several small packets

Address = tuple[str, int]

MakeConnection = Callable[[str, str, str], MqttConnection]
"""Makes the connection of one client of the listener with this name; the others are the client's address, ``host:port``, and
the user that its certificate names, or nothing."""

Serve = Callable[[Stream], Connection]


class Listeners:
    """All listeners of a server. ``max_packet_size`` is in bytes; ``connect_timeout``, in seconds by ``clock``, bounds
    handshakes; ``max_connections`` bounds what all of them together have open (0: nothing does); ``pause`` see `Acceptor`."""

    def __init__(
        self,
        *,
        max_packet_size: int,
        connect_timeout: float,
        clock: Wheel,
        counters: Counters | None = None,
        origins: Origins | None = None,
        max_connections: int = 0,
        certificates: CertificateWatch | None = None,
        pause: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._max_message = max(max_packet_size, _LEAST_MESSAGE)
        self._timeout = connect_timeout
        self._clock = clock
        self._pause = pause
        self._counters = counters if counters is not None else Counters()
        self._origins = origins if origins is not None else Origins()
        self._total = Total(max_connections)
        self._watch = certificates if certificates is not None else CertificateWatch()
        self._acceptors: list[Acceptor] = []
        self._admissions: list[Admission] = []
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
                addresses[listener.name] = await self._listen(listener, make_connection)
                logger.info(
                    "listener %s: %s on %s", listener.name, kind(listener), ", ".join(map(shown, addresses[listener.name]))
                )
        except BaseException:
            self.stop_accepting()
            raise
        return addresses

    async def _listen(self, listener: Listener, make: MakeConnection) -> list[Address]:
        admission = Admission(listener.name, listener.max_connections, self._counters, self._total)
        served = self._inside(listener, make)
        certificate = self._certificates[listener.name]
        if certificate is not None:
            served = self._in_tls(listener, certificate, served)
        if listener.proxy_protocol:
            served = self._behind_proxy(listener, served)
        try:
            sockets = await _sockets(listener)
        except OSError as error:
            raise StartError(f"listener {listener.name}: cannot listen on {listener.bind}: {advice(error)}") from error
        self._admissions.append(admission)
        if certificate is not None:
            self._watch.add(certificate, lambda: _end_revoked(admission, certificate))
        if listener.type == "ws" and listener.socket_path is None:
            self._origins.ports.add(sockets[0].getsockname()[1])
        self._acceptors += [
            Acceptor(one, admission, lambda peer: Stream(admission, peer, served), self._pause) for one in sockets
        ]
        if listener.socket_path is not None:
            return [(listener.bind, 0)]
        return [one.getsockname()[:2] for one in sockets]

    def _inside(self, listener: Listener, make: MakeConnection) -> Serve:
        name = listener.name
        if listener.type != "ws":
            return lambda stream: make(name, stream.peer, stream.certified)
        largest, clock, timeout = self._max_message, self._clock, self._timeout
        door = Door(listener.path, self._origins, secure=listener.tls is not None)

        def inside(stream: Stream) -> MqttConnection:
            return make(name, stream.peer, stream.certified)

        return lambda stream: WebSocketProtocol(stream, door, largest, clock, timeout, inside)

    def _in_tls(self, listener: Listener, certificate: Certificate, inside: Serve) -> Serve:
        def accept(stream: Stream, tls: ssl.SSLObject) -> None:
            der = tls.getpeercert(True)
            if der is None:  # none is required
                return
            shown = read(der, listener.identity)
            if shown.key in certificate.revoked:
                raise NotAccepted("the client's certificate was revoked")
            stream.certified = shown.user
            stream.certificate = shown.key if certificate.tls.crlfile is not None else None

        looked_at = accept if listener.tls is not None and listener.tls.cafile is not None else None
        shared = Tls(certificate, self._clock, self._timeout, inside, looked_at)
        return lambda stream: TlsProtocol(stream, shared)

    def _behind_proxy(self, listener: Listener, behind: Serve) -> Serve:
        # Whoever may open the file of a Unix socket is trusted.
        trusted = None if listener.socket_path is not None else [ip_network(one) for one in listener.proxy_from]

        def named(stream: Stream) -> Connection:
            if stream.common_name and listener.identity == "cn" and listener.tls is None:
                stream.certified = checked(stream.common_name, "cn")
            return behind(stream)

        clock, timeout = self._clock, self._timeout
        return lambda stream: ProxyProtocol(stream, trusted, clock, timeout, named)

    @property
    def connections(self) -> int:
        """How many sockets are open."""
        return sum(len(admission.open) for admission in self._admissions)

    async def renew(self, listener: Listener) -> None:
        """Use the certificates that this listener's files hold now for handshakes from here on.

        Raises `StartError` naming what does not serve; the old ones stay.
        """
        certificate = self._certificates.get(listener.name)
        if certificate is not None and listener.tls is not None:
            await self._watch.renew(certificate, listener.tls)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()

    async def close(self) -> None:
        """Stop accepting, and abort the connections that are still open. The caller has closed those that deserve a goodbye."""
        self.stop_accepting()
        for admission in self._admissions:
            await admission.clear()
        self._admissions.clear()
        await self._watch.close()


def _end_revoked(admission: Admission, certificate: Certificate) -> None:
    """End the connections of clients whose certificates count no more."""
    for guest in list(admission.open):
        if isinstance(guest, Stream) and guest.certificate in certificate.revoked:
            logger.warning("listener %s: %s: its certificate was revoked, the connection ends", admission.name, guest.peer)
            guest.abort()


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


async def _sockets(listener: Listener) -> list[socket.socket]:
    if listener.socket_path is not None:
        return [listening(listener.socket_path, int(listener.mode, 8))]
    return await bound(listener.host, listener.port, reuse_port=listener.reuse_port)


async def bound(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Sockets that listen on every address of a host name; an empty one, or ``*``, is all of this machine's. Raises OSError."""
    loop = asyncio.get_running_loop()
    name = None if host in ("", "*") else host
    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            if sockets and not port:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_listening(family, address, reuse_port))
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _listening(family: int, address: tuple[Any, ...], reuse_port: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # by which an event loop knows whom to set TCP_NODELAY
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
    if isinstance(error, Taken):
        return str(error)
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
