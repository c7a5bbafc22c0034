"""The load generator's clients: they publish, acknowledge and count, and keep nothing per message."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench import wire
from bench.reactor import LoadError, Reactor

_LARGE = 4096
"""Bytes of payload above which messages are not encoded in advance."""


class Client:
    """A connection with its CONNECT answered or not yet."""

    def __init__(
        self,
        reactor: Reactor,
        port: int,
        client_id: str,
        *,
        version: int,
        clean: bool,
        keep_alive: int = 0,
        login: tuple[str, str] | None = None,
    ) -> None:
        """Connects and sends CONNECT, as a user where there is a ``login``; `ready` turns true with the CONNACK."""
        self.client_id = client_id
        self.login = login
        self.version = version
        self.ready = False
        self.over = False
        self.link = reactor.connect(port, self)
        self.link.write(wire.connect(client_id, version=version, clean=clean, keep_alive=keep_alive, login=login))

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """CONNACK; everything else is unexpected here."""
        first, at, head, _, _ = run
        if first == wire.CONNACK:
            code = buffer[at + head + 1]
            if code:
                raise LoadError(f"{self.client_id}: connection refused with code {code}")
            self.ready = True
            self.on_ready()
            return
        raise LoadError(f"{self.client_id}: unexpected packet {first:#04x}")

    def on_ready(self) -> None:
        """The CONNACK arrived."""

    def lost(self, why: str) -> None:
        """The broker closed the connection, which nothing here asks for."""
        if not self.over:
            raise LoadError(f"{self.client_id}: {why}")

    def close(self) -> None:
        """DISCONNECT and close."""
        self.over = True
        self.link.write(wire.disconnect())
        self.link.close()


class Publisher(Client):
    """Publishes QoS 1 with a fixed number of messages in flight."""

    def __init__(
        self,
        reactor: Reactor,
        port: int,
        client_id: str,
        topic: str,
        *,
        window: int,
        size: int,
        version: int,
        limit: int = 0,
        login: tuple[str, str] | None = None,
    ) -> None:
        """``limit`` is how many messages to publish in all; 0 goes on until `stop`."""
        self._sheet = wire.Sheet(topic, size, version, ahead=window > 0 and size <= _LARGE)
        self._window = window
        self._limit = limit
        self.sent = 0
        self.acked = 0
        self.refused = 0
        super().__init__(reactor, port, client_id, version=version, clean=True, login=login)

    def start(self) -> None:
        """Fill the window."""
        self._publish(self._window)

    def stop(self) -> None:
        """Publish nothing further."""
        self._limit = self.sent

    @property
    def done(self) -> bool:
        """Everything that was sent is acknowledged, and nothing more is to be sent."""
        return self.acked == self.sent and (self.sent == self._limit > 0)

    def _publish(self, count: int) -> None:
        if self._limit:
            count = min(count, self._limit - self.sent)
        if count > 0:
            self.link.write(self._sheet.frames(self.sent, count))
            self.sent += count

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """PUBACKs free the window."""
        if run[0] != wire.PUBACK:
            super().received(buffer, run)
            return
        self.acked += run[4]
        if self.version == wire.V5:
            self.refused += wire.refusals(buffer, run)
        self._publish(run[4])


class TimedPublisher(Publisher):
    """A publisher of window 1 that notes when it sent each message and when the PUBACK came, in nanoseconds."""

    def __init__(self, reactor: Reactor, port: int, client_id: str, topic: str, *, size: int, version: int) -> None:
        """As `Publisher`."""
        self.sent_at: list[int] = []
        self.acked_at: list[int] = []
        super().__init__(reactor, port, client_id, topic, window=1, size=size, version=version)

    def _publish(self, count: int) -> None:
        if not self._limit:
            self.sent_at.append(time.perf_counter_ns())
        super()._publish(count)

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """Note the time first."""
        if run[0] == wire.PUBACK:
            self.acked_at.append(time.perf_counter_ns())
        super().received(buffer, run)


class Subscriber(Client):
    """Subscribes to one topic at QoS 1, acknowledges at once, counts, and checks the order."""

    def __init__(
        self,
        reactor: Reactor,
        port: int,
        client_id: str,
        topic: str,
        *,
        size: int,
        version: int,
        keep_alive: int = 0,
        login: tuple[str, str] | None = None,
    ) -> None:
        """A durable session. An empty topic subscribes to nothing: the session has its subscription already."""
        self._topic = topic
        self._size = size
        self._expected = -1
        self.subscribed = False
        self.delivered = 0
        self.redelivered = 0
        self.misordered = 0
        super().__init__(reactor, port, client_id, version=version, clean=False, keep_alive=keep_alive, login=login)

    def on_ready(self) -> None:
        """SUBSCRIBE follows the CONNACK."""
        if self._topic:
            self.link.write(wire.subscribe(1, self._topic, version=self.version))
        else:
            self.subscribed = True

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """Messages are acknowledged in the same step."""
        first, at, _, stride, count = run
        if first & 0xF0 == wire.PUBLISH:
            if first & 6 == 2:
                self.link.write(wire.pubacks(buffer, run))
            self.delivered += count
            if first & 8:
                self.redelivered += count
            wrong, self._expected = wire.misordered(buffer, run, self._size, self._expected)
            self.misordered += wrong
        elif first == wire.SUBACK:
            if buffer[at + stride - 1] >= 128:
                raise LoadError(f"{self.client_id}: subscription refused")
            self.subscribed = True
        else:
            super().received(buffer, run)


class TimedSubscriber(Subscriber):
    """A subscriber that notes when each message arrived, in nanoseconds."""

    def __init__(self, reactor: Reactor, port: int, client_id: str, topic: str, *, size: int, version: int) -> None:
        """As `Subscriber`."""
        self.delivered_at: list[int] = []
        super().__init__(reactor, port, client_id, topic, size=size, version=version)

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """Note the time first."""
        if run[0] & 0xF0 == wire.PUBLISH:
            self.delivered_at.extend([time.perf_counter_ns()] * run[4])
        super().received(buffer, run)


def wait_ready(reactor: Reactor, clients: Sequence[Client], timeout: float = 60.0) -> None:
    """Until every CONNACK is there."""
    reactor.run_until(lambda: all(client.ready for client in clients), "connecting", timeout)


def forget(reactor: Reactor, port: int, devices: Sequence[Client]) -> None:
    """End durable sessions, so that a later measurement begins clean: connect with a clean session, and leave."""
    for start in range(0, len(devices), 50):
        batch = [
            Client(reactor, port, one.client_id, version=one.version, clean=True, login=one.login)
            for one in devices[start : start + 50]
        ]
        wait_ready(reactor, batch)
        for client in batch:
            client.close()
