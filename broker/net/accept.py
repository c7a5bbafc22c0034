"""Accepts clients on one listening socket.

The event loop's own server would do, but for one thing: without a file descriptor left it closes clients, and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable

from broker.net.admission import Admission, descriptors
from broker.net.stream import Stream, shown
from broker.net.unix_socket import peer_of, remove, unix_path

logger = logging.getLogger(__name__)

_AT_ONCE = 2  # accepted before others have their turn; twice what then may connect (`broker.limits.turns`)
_PAUSE = 1.0  # seconds until the next try where not even turning away is possible
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Serves each client of ``listening`` with a stream that ``make`` makes, until `close`. ``pause`` says for how many seconds
    clients are left in the kernel's queue after some."""

    def __init__(
        self, listening: socket.socket, admission: Admission, make: Callable[[str], Stream], pause: Callable[[], float]
    ) -> None:
        self._listening = listening
        self._admission = admission
        self._make = make
        self._pause = pause
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._spare = os.open(os.devnull, os.O_RDONLY)  # given up for the moment that it takes to turn a client away
        self._most = descriptors()
        self._local = listening.family == socket.AF_UNIX
        listening.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more, and close the listening socket."""
        if self._again is not None:
            self._again.cancel()
        elif self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())
        if self._listening.fileno() >= 0:
            path = unix_path(self._listening)
            self._listening.close()
            if path is not None:
                remove(path)
            self._give_up_spare()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it went while it waited
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED or not self._turn_one_away():
                    self._admission.cannot_accept(error.strerror or str(error))
                    self._rest(_PAUSE)
                    return
                continue
            self._serve(client, address)
        if pause := self._pause():
            self._rest(pause)

    def _serve(self, client: socket.socket, address: tuple[str, int]) -> None:
        if full := self._admission.full:
            client.close()
            self._admission.over_limit(full)
            return
        if client.fileno() >= self._most:  # the kernel gives the lowest number that is free
            client.close()
            self._out_of_descriptors()
            return
        client.setblocking(False)
        if self._local:
            stream = self._make(peer_of(client))
        else:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = self._make(shown(address))
        self._admission.admit(stream)
        task = self._loop.create_task(self._start(client, stream))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, client: socket.socket, stream: Stream) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: stream, client)
        except OSError as error:  # it went already
            logger.debug("listener %s: %s: %s", self._admission.name, stream.peer, error)
            client.close()
            self._admission.leave(stream)

    def _turn_one_away(self) -> bool:
        """Close the next client, with the descriptor that is kept for this; False where that does not work either."""
        self._give_up_spare()
        try:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._listening.accept()[0].close()
                self._out_of_descriptors()
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):  # a thread was faster; the next client has to wait
                self._spare = os.open(os.devnull, os.O_RDONLY)
        return True

    def _give_up_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _out_of_descriptors(self) -> None:
        self._admission.turned_away(f"the process is out of file descriptors ({self._most} are for connections; see ulimit -n)")

    def _rest(self, seconds: float) -> None:
        """Try again later: the socket stays ready, and would keep the loop busy."""
        self._loop.remove_reader(self._listening.fileno())
        self._again = self._loop.call_later(seconds, self._listen)
