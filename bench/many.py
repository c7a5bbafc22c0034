"""The shape ``many`` of `bench.load`: a fleet of publishers at a low rate each, and how long their PUBACKs take."""

from __future__ import annotations

import time
from collections import deque

from bench import wire
from bench.clients import Publisher, Subscriber, wait_ready
from bench.load import STALL, Figures, Mark, Spec, checked, leave, quantiles, wait_subscribed
from bench.reactor import LoadError, Reactor

_READERS = 10
_UNANSWERED = 500
"""Messages of one publisher without a PUBACK, after which the broker does not carry the load."""


class Steady(Publisher):
    """Publishes when it is told, whether the last message was acknowledged or not; notes how long each took (nanoseconds)."""

    def __init__(self, reactor: Reactor, port: int, client_id: str, topic: str, *, size: int, version: int) -> None:
        """As `Publisher`."""
        self.waits: list[int] = []
        self._sent_at: deque[int] = deque()
        super().__init__(reactor, port, client_id, topic, window=0, size=size, version=version)

    def publish(self) -> None:
        """The next message."""
        if len(self._sent_at) >= _UNANSWERED:
            raise LoadError(f"{self.client_id}: {_UNANSWERED} messages without a PUBACK, the broker does not carry this load")
        self._sent_at.append(time.perf_counter_ns())
        self._publish(1)

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """A PUBACK ends a wait, and begins nothing."""
        if run[0] != wire.PUBACK:
            super().received(buffer, run)
            return
        now = time.perf_counter_ns()
        self.waits.extend([now - self._sent_at.popleft() for _ in range(run[4])])
        self.acked += run[4]


class Reader(Subscriber):
    """A durable device that reads many publishers; their messages have no order between them."""

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """Count only."""
        self._expected = -1
        super().received(buffer, run)
        self.misordered = 0


def many(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """``connections`` publishers with ``messages`` messages a second each, evenly spread, and ten durable readers: milliseconds
    from the sending of a message to its PUBACK. ``late``: how late the generator sent them, which is no fault of the broker."""
    readers = [
        Reader(reactor, spec.port, f"{spec.run}-s{one}", f"{spec.run}/{one}/+", size=spec.size, version=spec.version)
        for one in range(_READERS)
    ]
    wait_subscribed(reactor, readers)
    publishers: list[Steady] = []
    for start in range(0, spec.connections, 100):
        batch = [
            Steady(
                reactor,
                spec.port,
                f"{spec.run}-p{number}",
                f"{spec.run}/{number % _READERS}/{number}",
                size=spec.size,
                version=spec.version,
            )
            for number in range(start, min(start + 100, spec.connections))
        ]
        wait_ready(reactor, batch)
        publishers += batch
    mark("loading")
    late, busy, seconds = _publish(reactor, spec, publishers)
    for one in publishers:
        one.stop()
    due = sum(one.sent for one in publishers)
    reactor.run_while_moving(
        lambda: sum(one.delivered for one in readers) >= due and all(one.done for one in publishers),
        lambda: sum(one.delivered for one in readers),
        STALL,
    )
    mark("loaded")
    figures = checked(publishers, readers, 1)
    waits = [wait for one in publishers for wait in one.waits]
    figures["ack_rate"] = len(waits) / seconds
    figures["ack_p50"], figures["ack_p99"] = quantiles(waits)
    figures.update(late_p99=quantiles(late)[1], busy=busy / seconds)
    leave(reactor, spec, publishers, readers)
    return figures


def _publish(reactor: Reactor, spec: Spec, publishers: list[Steady]) -> tuple[list[int], float, float]:
    """In turns at an even pace; how late each was sent (nanoseconds), and the generator's processor and real seconds."""
    began = measured = time.perf_counter()
    busy, rate, late = 0.0, spec.connections * spec.messages, [0]
    sent, warm = 0, True
    while (now := time.perf_counter() - began) < spec.warm_up + spec.seconds:
        if warm and now >= spec.warm_up:
            warm, measured, busy = False, time.perf_counter(), time.process_time()
            late.clear()
            for one in publishers:
                one.waits.clear()
        while sent <= now * rate:
            late.append(max(0, int((now - sent / rate) * 1e9)))
            publishers[sent % len(publishers)].publish()
            sent += 1
        reactor.step(max(0.0, min(0.01, sent / rate - now)))
    return late, time.process_time() - busy, time.perf_counter() - measured
