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
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from broker.net.admission import Admission, descriptors
from broker.net.stream import Stream, shown
from broker.net.unix_socket import peer_of, remove, unix_path

logger = logging.getLogger(__name__)

_AT_ONCE = 4  # accepted before others have their turn: as many as then may connect (`broker.limits.turns`)
_PACED = 2  # the same where there is a pause behind them: twice as many
_PAUSE = 1.0  # seconds until the next try where not even turning away is possible
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def _kind(family: int) -> type[socket.socket]:
    """Sockets of the family, which know what they are. `socket.socket` makes an enum's member of it each time that it is asked,
    twice for `accept` and three times by the event loop: a seventh of what a client costs that connects."""
    known = {"__slots__": (), "family": family, "type": socket.SOCK_STREAM}
    return type("_Accepted", (socket.socket,), known)


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
        self._again: asyncio.TimerHandle | None = None
        self._spare = os.open(os.devnull, os.O_RDONLY)  # given up for the moment that it takes to turn a client away
        self._most = descriptors()
        self._family: int = listening.family
        self._protocol = listening.proto
        self._kind = _kind(listening.family)
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
        pause = self._pause()
        for _ in range(_PACED if pause else _AT_ONCE):
            try:
                client, address = self._listening._accept()  # type: ignore[attr-defined]  # as `socket.accept` does
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
            self._serve(self._kind(self._family, socket.SOCK_STREAM, self._protocol, client), client, address)
        if pause:
            self._rest(pause)

    def _serve(self, client: socket.socket, number: int, address: Any) -> None:
        if full := self._admission.full:
            client.close()
            self._admission.over_limit(full)
            return
        if number >= self._most:  # the kernel gives the lowest number that is free
            client.close()
            self._out_of_descriptors()
            return
        stream = self._make(peer_of(client) if self._local else shown((address[0], address[1])))
        self._admission.admit(stream)
        # The loop's coroutine makes the transport, and then waits until the stream knows of it. It is gone on with by hand: a
        # task for each client would cost more than what it does.
        opening = self._loop.connect_accepted_socket(lambda: cast(asyncio.Protocol, stream), client)
        try:
            made = opening.send(None)
        except OSError as error:
            self._gone(client, stream, error)
        else:
            made.add_done_callback(partial(self._made, opening, client, stream))

    def _made(self, opening: Coroutine[Any, Any, Any], client: socket.socket, stream: Stream, _: object) -> None:
        try:
            opening.send(None)
        except StopIteration:
            pass
        except OSError as error:
            self._gone(client, stream, error)

    def _gone(self, client: socket.socket, stream: Stream, error: OSError) -> None:
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
