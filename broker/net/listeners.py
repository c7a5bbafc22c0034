"""The sockets that clients connect to: TCP, TLS, WebSocket and secure WebSocket, several at once.

A listener makes one `Connection` per client and feeds it; it knows nothing of MQTT. No task per connection.

Over ``max_connections`` a client is accepted and closed at once, counted, and logged now and then: it hears at once that
it must try elsewhere or later, and cannot fill the kernel's queue. A TLS client is counted when its handshake is done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from broker.config.settings import Listener, Tls
from broker.counters import Counters
from broker.errors import StartError
from broker.net.websocket import WebSocketProtocol
from broker.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

_BACKLOG = 1024  # a fleet that reconnects at once
_LEAST_MESSAGE = 1 << 16  # a WebSocket message may hold several small packets

Address = tuple[str, int]


class Connection(Protocol):
    """What serves one client: called as an `asyncio.Protocol` is. The transport is a socket's, or a WebSocket's face of one."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool | None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


MakeConnection = Callable[[str], Connection]
"""Makes the connection of one client of the listener with this name."""


class Gate:
    """Counts one listener's open connections, and says when there are too many."""

    __slots__ = ("_counters", "_empty", "_log", "limit", "name", "open")

    def __init__(self, name: str, limit: int, counters: Counters) -> None:
        self.name = name
        self.limit = limit
        self.open: set[Socket] = set()
        self._counters = counters
        self._empty = asyncio.Event()
        self._log = RateLimitedLog(logger, 10.0)

    def admit(self, one: Socket) -> bool:
        if self.limit and len(self.open) >= self.limit:
            self._counters.connections_refused += 1
            self._log.warning("listener %s: connection refused, max_connections %d are open", self.name, self.limit)
            return False
        self._counters.connections_total += 1
        self.open.add(one)
        return True

    def leave(self, one: Socket) -> None:
        self.open.discard(one)
        if not self.open:
            self._empty.set()

    async def clear(self) -> None:
        """Abort whatever is open, and wait until its connections know."""
        if self.open:
            self._empty.clear()
            for one in list(self.open):
                one.transport.abort()
            await self._empty.wait()


class Socket(asyncio.Protocol):
    """One accepted socket: passes everything on, and counts.

    ``made`` makes what serves it: an MQTT connection, or a WebSocket around one.
    """

    __slots__ = ("_gate", "_made", "_served", "transport")

    def __init__(self, gate: Gate, made: Callable[[], Any]) -> None:
        self._gate = gate
        self._made = made
        self._served: Any = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if not self._gate.admit(self):
            self.transport.abort()
            return
        self._served = self._made()
        self._served.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._served is not None:
            self._served.data_received(data)

    def eof_received(self) -> bool | None:
        return self._served.eof_received() if self._served is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        served, self._served = self._served, None
        self._gate.leave(self)
        if served is not None:
            served.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        if self._served is not None:
            self._served.resume_writing()


class Listeners:
    """All listeners of a server. ``max_packet_size`` is in bytes; ``connect_timeout``, in seconds, bounds handshakes."""

    def __init__(self, *, max_packet_size: int, connect_timeout: float, counters: Counters | None = None) -> None:
        self._max_message = max(max_packet_size, _LEAST_MESSAGE)
        self._timeout = connect_timeout
        self._counters = counters if counters is not None else Counters()
        self._servers: list[asyncio.Server] = []
        self._gates: list[Gate] = []

    async def open(self, settings: Sequence[Listener], make_connection: MakeConnection) -> dict[str, list[Address]]:
        """Open all, or none: listener name → addresses that it listens on (a host name may have several).

        Raises `StartError` that names the listener, its address and what to do.
        """
        addresses: dict[str, list[Address]] = {}
        try:
            contexts = [_context(listener) for listener in settings]
            for listener, context in zip(settings, contexts, strict=True):
                server = await self._listen(listener, context, make_connection)
                self._servers.append(server)
                addresses[listener.name] = [sock.getsockname()[:2] for sock in server.sockets]
                logger.info(
                    "listener %s: %s on %s", listener.name, kind(listener), ", ".join(map(shown, addresses[listener.name]))
                )
        except BaseException:
            self.stop_accepting()
            raise
        return addresses

    async def _listen(self, listener: Listener, context: ssl.SSLContext | None, make: MakeConnection) -> asyncio.Server:
        gate = Gate(listener.name, listener.max_connections, self._counters)
        self._gates.append(gate)
        made = self._maker(listener, make)
        loop = asyncio.get_running_loop()
        host = None if listener.host in ("", "*") else listener.host
        try:
            return await loop.create_server(
                lambda: Socket(gate, made),
                host,
                listener.port,
                ssl=context,
                ssl_handshake_timeout=self._timeout if context else None,
                ssl_shutdown_timeout=self._timeout if context else None,
                backlog=_BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            raise StartError(f"listener {listener.name}: cannot listen on {listener.bind}: {advice(error)}") from error

    def _maker(self, listener: Listener, make: MakeConnection) -> Callable[[], Any]:
        name = listener.name
        if listener.type != "ws":
            return lambda: make(name)
        path, largest, timeout = listener.path, self._max_message, self._timeout
        return lambda: WebSocketProtocol(path, largest, timeout, lambda: make(name))

    @property
    def connections(self) -> int:
        """How many sockets are open."""
        return sum(len(gate.open) for gate in self._gates)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        """Stop accepting, and abort the connections that are still open. The caller has closed those that deserve a goodbye."""
        self.stop_accepting()
        for gate in self._gates:
            await gate.clear()
        self._gates.clear()


def kind(listener: Listener) -> str:
    """What a listener speaks, for people."""
    return {"tcp": ("MQTT", "MQTT over TLS"), "ws": ("WebSocket", "secure WebSocket")}[listener.type][listener.tls is not None]


def shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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


def _context(listener: Listener) -> ssl.SSLContext | None:
    if listener.tls is None:
        return None
    return server_context(f"listener {listener.name}: tls.", listener.tls, "http/1.1" if listener.type == "ws" else "mqtt")


def server_context(where: str, tls: Tls, protocol: str) -> ssl.SSLContext:
    """TLS 1.2 and up, with these certificates, for an ALPN protocol.

    Raises `StartError` naming the file that does not serve; ``where`` stands before the setting's name.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([protocol])
    _load_certificates(context, where, tls)
    if tls.cafile is not None:
        # Without the requirement a certificate is still checked if there is one, for plugins that ask for it.
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
    return context


def _load_certificates(context: ssl.SSLContext, where: str, tls: Tls) -> None:
    def no_passphrase() -> str:
        raise ValueError("encrypted")  # rather than a prompt on the terminal

    for field, path in (("certfile", tls.certfile), ("keyfile", tls.keyfile), ("cafile", tls.cafile)):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise StartError(f"{where}{field} {path}: {(error.strerror or str(error)).lower()}") from error
    key = tls.keyfile or tls.certfile
    try:
        context.load_cert_chain(tls.certfile, tls.keyfile, no_passphrase)
    except ValueError as error:
        raise StartError(f"{where}keyfile {key}: is encrypted; give one without a passphrase") from error
    except ssl.SSLError as error:
        why = (
            "the key does not belong to the certificate"
            if error.reason == "KEY_VALUES_MISMATCH"
            else "not a PEM certificate and key"
        )
        raise StartError(f"{where}certfile {tls.certfile} with key {key}: {why}") from error
    if tls.cafile is not None:
        try:
            context.load_verify_locations(tls.cafile)
        except ssl.SSLError as error:
            raise StartError(f"{where}cafile {tls.cafile}: not PEM certificates") from error
