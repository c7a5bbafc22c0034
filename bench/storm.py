"""The shape ``storm`` of `bench.load`: very many clients connect as fast as they are let in, by TCP, TLS or WebSocket.

A client is a generator that yields what its socket waits for, up to its CONNACK.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator

from bench import wire
from bench.carriers import SWITCHED, context, framed, upgrade
from bench.load import Figures, Mark, Spec
from bench.reactor import LoadError, Reactor

_AT_ONCE = 100
"""Clients that are on their way: fewer than any broker's listening socket holds."""
_SETTLE = 1.0
_TIMEOUT = 120.0
_WELCOME = bytes([wire.CONNACK, 2, 0, 0])
_WELCOME_FRAMED = bytes([0x82, len(_WELCOME)]) + _WELCOME


class Storm:
    """Clients that connect and those that are connected."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._context = context()
        self._poll = select.epoll()
        self._under_way: dict[int, Iterator[int]] = {}
        self._sockets: list[socket.socket] = []

    def connect(self, count: int, name: str) -> None:
        """So many more; returns when all have their CONNACK."""
        begun, wanted, deadline = 0, count, time.perf_counter() + _TIMEOUT
        while begun < wanted or self._under_way:
            while begun < wanted and len(self._under_way) < _AT_ONCE:
                self._begin(f"{self._spec.run}-{name}{begun}")
                begun += 1
            if time.perf_counter() > deadline:
                raise LoadError(f"{len(self._under_way)} clients were not connected within {_TIMEOUT:g} s")
            for fileno, _ in self._poll.poll(1.0):
                self._go_on(fileno)

    def close(self) -> None:
        """All of them, without a word."""
        for one in self._sockets:
            one.close()
        self._poll.close()

    def _begin(self, client_id: str) -> None:
        connecting = socket.socket()
        connecting.setblocking(False)
        connecting.connect_ex(("127.0.0.1", self._spec.port))
        fileno = connecting.fileno()
        self._under_way[fileno] = self._greeted(connecting, client_id)
        self._poll.register(fileno, next(self._under_way[fileno]))

    def _go_on(self, fileno: int) -> None:
        try:
            self._poll.modify(fileno, next(self._under_way[fileno]))
        except StopIteration:
            del self._under_way[fileno]
            self._poll.unregister(fileno)

    def _greeted(self, connected: socket.socket, client_id: str) -> Iterator[int]:
        yield select.EPOLLOUT
        if error := connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise LoadError(f"{client_id}: {os.strerror(error)}")
        if self._spec.transport == "tls":
            connected = self._context.wrap_socket(connected, do_handshake_on_connect=False, server_hostname="localhost")
            yield from _handshake(connected)
        self._sockets.append(connected)
        hello, expected = wire.connect(client_id, version=self._spec.version, keep_alive=600), _WELCOME
        if self._spec.transport == "ws":
            connected.sendall(upgrade())
            answer = yield from _read(connected, lambda got: got.endswith(b"\r\n\r\n"))
            if not answer.startswith(SWITCHED):
                raise LoadError(f"{client_id}: the broker opens no WebSocket: {answer[:80]!r}")
            hello, expected = framed(hello), _WELCOME_FRAMED
        connected.sendall(hello)
        answer = yield from _read(connected, lambda got: len(got) >= len(expected))
        if answer != expected:
            raise LoadError(f"{client_id}: connection refused: {answer.hex()}")


def _handshake(connected: ssl.SSLSocket) -> Iterator[int]:
    while True:
        try:
            connected.do_handshake()
        except ssl.SSLWantReadError:
            yield select.EPOLLIN
        except ssl.SSLWantWriteError:
            yield select.EPOLLOUT
        else:
            return


def _read(connected: socket.socket, whole: Callable[[bytes], bool]) -> Generator[int, None, bytes]:
    got = b""
    while not whole(got):
        try:
            more = connected.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            yield select.EPOLLIN
            continue
        if not more:
            raise LoadError(f"closed by the broker after {got!r}")
        got += more
    return got


def storm(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """``connections`` clients beside 200 that are there: clients a second from the first to the last CONNACK."""
    all_of_them = Storm(spec)
    try:
        all_of_them.connect(200, "w")
        time.sleep(_SETTLE)
        mark("empty")
        busy, began = time.process_time(), time.perf_counter()
        all_of_them.connect(spec.connections, "c")
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        time.sleep(_SETTLE)
        mark("connected")
    finally:
        all_of_them.close()
    return {"connections": spec.connections, "rate": spec.connections / seconds, "busy": busy / seconds}
