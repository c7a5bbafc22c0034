"""A client that publishes a little all the time, to show what others notice of what the broker is busy with."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType

from bench.wire import connect, publish

_PAUSE = 0.005
_PATIENCE = 120.0


class Bystander:
    """One QoS 1 message after the other, a few milliseconds apart, from a thread of its own; or one PINGREQ, which waits for no
    commit and tells how long the broker did nothing else at all."""

    def __init__(self, port: int, *, pings: bool = False) -> None:
        self._frame = b"\xc0\x00" if pings else publish("bystander/t", b"x" * 128)
        self._name = "pinging" if pings else "bystander"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self._over = threading.Event()
        self._waits: list[float] = []
        self._trouble: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Bystander:
        self._socket.sendall(connect(self._name))
        self._socket.recv(4)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()
        if self._trouble is not None and error is None:
            raise self._trouble

    def _run(self) -> None:
        try:
            while not self._over.wait(_PAUSE):
                began = time.perf_counter()
                self._socket.sendall(self._frame)
                if not self._socket.recv(4):
                    raise RuntimeError("the broker closed the connection of the bystander")
                self._waits.append((time.perf_counter() - began) * 1000)
        except (OSError, RuntimeError) as error:
            self._trouble = error

    def waits(self) -> list[float]:
        """Milliseconds that each PUBACK, or PINGRESP, took since this was asked last; at least one."""
        while not self._waits and self._thread.is_alive():
            time.sleep(_PAUSE)
        found, self._waits = self._waits, []
        return found
