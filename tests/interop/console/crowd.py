"""Some thousand clients, connected for as long as a test needs them, from one thread of the load generator's sockets."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench import wire
from bench.clients import Client, wait_ready
from bench.reactor import Reactor
from tests.interop.console.house import PASSWORD, House

_AT_ONCE = 200
_PATIENCE = 300.0


class Member(Client):
    """A durable device with a filter of its own, one of all, and one of the fleet; it acknowledges what comes."""

    def __init__(self, reactor: Reactor, port: int, number: int) -> None:
        """Every second one is the fleet's, the others are users of their own."""
        self.granted = False
        name = f"device-{number:05}"
        self._filters = ("news/#", f"own/{name}", *(("crew/#",) if number % 2 else ()))
        super().__init__(reactor, port, name, version=wire.V5, clean=False, login=("fleet", PASSWORD) if number % 2 else None)

    def on_ready(self) -> None:
        for filter_ in self._filters:
            self.link.write(wire.subscribe(1, filter_, version=self.version))

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        first, at, _, stride, _ = run
        if first & 0xF0 == wire.PUBLISH:
            self.link.write(wire.pubacks(buffer, run))
        elif first == wire.SUBACK:
            assert buffer[at + stride - 1] < 0x80
            self.granted = True
        else:
            super().received(buffer, run)


@contextmanager
def crowd(home: House, count: int) -> Iterator[None]:
    """So many of them."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    reactor, ends = Reactor(), threading.Event()

    def serve() -> None:
        while not ends.is_set():
            reactor.step(0.1)

    thread = threading.Thread(target=serve)
    members: list[Member] = []
    try:
        for first in range(0, count, _AT_ONCE):
            members += [Member(reactor, home.port, number) for number in range(first, min(count, first + _AT_ONCE))]
            wait_ready(reactor, members[first:], _PATIENCE)
        reactor.run_until(lambda: all(member.granted for member in members), "subscribing", _PATIENCE)
        thread.start()
        yield
    finally:
        ends.set()
        if thread.ident is not None:
            thread.join()
        for member in members:
            member.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
