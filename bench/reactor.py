"""One epoll loop over raw sockets: as little as a load generator needs, so that it is never the slowest part.

A link reads into one shared buffer and hands its owner runs of frames (see `wire.runs`); positions are valid during the call.
A frame that is a good part of that buffer is read into one of its own, or its beginning would be moved with each read.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from bench import wire
from bench.carriers import SWITCHED, Unframed, context, framed, upgrade

_BUFFER = 1 << 18
_LARGE = 1 << 16
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class LoadError(Exception):
    """The broker did something that makes the measurement worthless; the text says what."""


class Owner(Protocol):
    """Whoever a link belongs to."""

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """A run of frames arrived."""

    def lost(self, why: str) -> None:
        """The broker closed the connection."""


class Link:
    """One connection."""

    __slots__ = ("_carry", "_filled", "_large", "_pending", "_reactor", "_socket", "owner")

    def __init__(self, reactor: Reactor, connected: socket.socket, owner: Owner) -> None:
        """Watches ``connected`` from now on."""
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setblocking(False)
        self.owner = owner
        self._reactor = reactor
        self._socket = connected
        self._carry = b""
        self._large = bytearray()
        self._filled = 0
        self._pending = bytearray()
        reactor.add(connected.fileno(), self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send now what the socket takes, the rest as soon as it takes more."""
        if self._pending:
            self._pending += data
            return
        sent = self._send(data)
        if 0 <= sent < len(data):
            self._pending += data[sent:]
            self._reactor.watch_writing(self._socket.fileno(), True)

    def flush(self) -> None:
        """The socket takes more."""
        with memoryview(self._pending) as pending:
            sent = self._send(pending)
        if sent > 0:
            del self._pending[:sent]
        if not self._pending:
            self._reactor.watch_writing(self._socket.fileno(), False)

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        """How much the socket took; -1 where the connection is lost."""
        try:
            return self._socket.send(data)
        except _NOT_NOW:
            return 0
        except OSError as error:
            self._fail(str(error))
            return -1

    def read(self) -> None:
        """Read once and hand over every whole frame."""
        if self._large:
            self._read_large()
            return
        buffer, held = self._reactor.buffer, len(self._carry)
        if held:
            buffer[:held] = self._carry
        got = self._receive(self._reactor.view[held:] if held else self._reactor.view)
        if not got:
            return
        end = held + got
        found, at = wire.runs(buffer, end)
        self._carry = b""
        if at < end:
            if (length := wire.frame_length(buffer, at, end)) > _LARGE:
                self._large, self._filled = bytearray(length), end - at
                self._large[: end - at] = buffer[at:end]
            else:
                self._carry = bytes(buffer[at:end])
        for run in found:
            self.owner.received(buffer, run)

    def _read_large(self) -> None:
        """As much of the frame as has come; the owner hears of it when it is whole."""
        with memoryview(self._large) as view, view[self._filled :] as missing:
            self._filled += self._receive(missing)
        if self._filled == len(self._large):
            whole, self._large = self._large, bytearray()
            for run in wire.runs(whole, len(whole))[0]:
                self.owner.received(whole, run)

    def _receive(self, into: memoryview) -> int:
        """How much came; 0 also where the connection is lost."""
        try:
            got = self._socket.recv_into(into)
        except _NOT_NOW:
            return 0
        except OSError as error:
            self._fail(str(error))
            return 0
        if not got:
            self._fail("closed by the broker")
        return got

    def close(self) -> None:
        """Close the socket; what is pending is dropped."""
        if self._socket.fileno() >= 0:
            self._reactor.remove(self._socket.fileno())
            self._socket.close()

    def _fail(self, why: str) -> None:
        self.close()
        self.owner.lost(why)


class WebSocketLink(Link):
    """One connection, whose packets are in frames."""

    __slots__ = ("_unframed",)

    def __init__(self, reactor: Reactor, connected: socket.socket, owner: Owner) -> None:
        """``connected`` has no WebSocket yet. Raises `LoadError` where the broker opens none."""
        connected.sendall(upgrade())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            if not (more := connected.recv(1)):
                break
            answer += more
        if not answer.startswith(SWITCHED):
            raise LoadError(f"the broker opens no WebSocket: {answer[:80]!r}")
        self._unframed = Unframed()
        super().__init__(reactor, connected, owner)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Whole packets."""
        super().write(framed(data))

    def _receive(self, into: memoryview) -> int:
        raw = self._reactor.raw[: len(into)]
        got = super()._receive(raw)
        try:
            return self._unframed.take(raw[:got], into)
        except ValueError as error:
            raise LoadError(str(error)) from error


class Reactor:
    """The loop. ``transport``: what its links go by, ``tcp``, ``tls`` or ``ws``. By TLS packets must fit into the buffer."""

    def __init__(self, transport: str = "tcp") -> None:
        """Nothing is watched yet."""
        self._transport = transport
        self._context = context()
        self.raw = memoryview(bytearray(_BUFFER))
        self.buffer = bytearray(_BUFFER)
        self.view = memoryview(self.buffer)
        self._poll = select.epoll()
        self._links: dict[int, Link] = {}
        self._acceptors: dict[int, Callable[[], None]] = {}

    def connect(self, port: int, owner: Owner) -> Link:
        """A connection to 127.0.0.1."""
        connected = socket.create_connection(("127.0.0.1", port), timeout=10)
        if self._transport == "tls":
            connected = self._context.wrap_socket(connected, server_hostname="localhost")
        return (WebSocketLink if self._transport == "ws" else Link)(self, connected, owner)

    def add(self, fileno: int, link: Link) -> None:
        """Watch a link for bytes to read."""
        self._links[fileno] = link
        self._poll.register(fileno, select.EPOLLIN)

    def listen(self, listening: socket.socket, accept: Callable[[], None]) -> None:
        """Call ``accept`` whenever somebody connects."""
        self._acceptors[listening.fileno()] = accept
        self._poll.register(listening.fileno(), select.EPOLLIN)

    def remove(self, fileno: int) -> None:
        """Watch it no longer."""
        if self._links.pop(fileno, None) is not None:
            self._poll.unregister(fileno)

    def watch_writing(self, fileno: int, on: bool) -> None:
        """Watch a link also for room to write."""
        if fileno in self._links:
            self._poll.modify(fileno, select.EPOLLIN | select.EPOLLOUT if on else select.EPOLLIN)

    def step(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for events and serve them."""
        links = self._links
        for fileno, event in self._poll.poll(timeout):
            link = links.get(fileno)
            if link is None:
                if fileno in self._acceptors:
                    self._acceptors[fileno]()
                continue
            if event & select.EPOLLOUT:
                link.flush()
            if event & ~select.EPOLLOUT and fileno in links:
                link.read()

    def run_for(self, seconds: float) -> float:
        """Serve events for a time; returns the seconds that it really took."""
        began = now = time.perf_counter()
        while (left := began + seconds - now) > 0:
            self.step(left)
            now = time.perf_counter()
        return now - began

    def run_until(self, done: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        """Serve events until ``done()``; raises `LoadError` naming ``what`` when time is up."""
        deadline = time.perf_counter() + timeout
        while not done():
            left = deadline - time.perf_counter()
            if left <= 0:
                raise LoadError(f"{what}: not within {timeout:g} s")
            self.step(min(left, 0.05))

    def run_while_moving(self, done: Callable[[], bool], progress: Callable[[], int], stall: float) -> tuple[bool, float]:
        """Serve events until ``done()``, or until ``progress()`` stood still for ``stall`` seconds.

        Returns whether it is done, and the `perf_counter` time of the last progress.
        """
        last, moved = progress(), time.perf_counter()
        while not done():
            self.step(0.05)
            now = time.perf_counter()
            if (current := progress()) != last:
                last, moved = current, now
            elif now - moved > stall:
                return False, moved
        return True, moved
