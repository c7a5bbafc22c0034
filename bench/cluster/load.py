"""What the generator does to the nodes of a cluster, beyond the shape ``stream`` of `bench.load`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from bench import wire
from bench.clients import Publisher, TimedPublisher, TimedSubscriber, forget, wait_ready
from bench.load import STALL, Figures, Mark, Spec
from bench.reactor import LoadError, Reactor


class PacedPublisher(TimedPublisher):
    """One message, its PUBACK, a pause, the next one. ``pause``: seconds on average; half as long to one and a half times."""

    def __init__(
        self, reactor: Reactor, port: int, client_id: str, topic: str, *, size: int, version: int, pause: float
    ) -> None:
        """As `Publisher`."""
        super().__init__(reactor, port, client_id, topic, size=size, version=version)
        self._pause = pause
        self._next = 0.0

    def start(self) -> None:
        """`tick` begins."""

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """A PUBACK begins the pause."""
        if run[0] == wire.PUBACK:
            self.acked_at.append(time.perf_counter_ns())
            self.acked += run[4]
            self._next = time.perf_counter() + self._pause * (0.5 + random.random())
        else:
            Publisher.received(self, buffer, run)

    def tick(self, now: float) -> None:
        """Publish, where it is time."""
        if self.acked == self.sent and now >= self._next:
            self._publish(1)


def behind(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """Pairs with one message in flight each: milliseconds from the publisher's PUBACK to the delivery at its subscriber."""
    subscribers = [
        TimedSubscriber(
            reactor, spec.port_of(pair, 0), f"{spec.run}-s{pair}", f"{spec.run}/{pair}", size=spec.size, version=spec.version
        )
        for pair in range(spec.pairs)
    ]
    reactor.run_until(lambda: all(one.subscribed for one in subscribers), "subscribing", 60)
    publishers = [
        PacedPublisher(
            reactor,
            spec.port_of(pair),
            f"{spec.run}-p{pair}",
            f"{spec.run}/{pair}",
            size=spec.size,
            version=spec.version,
            pause=spec.pause,
        )
        for pair in range(spec.pairs)
    ]
    wait_ready(reactor, publishers)
    _publish(reactor, publishers, spec.warm_up)
    _all_there(reactor, publishers, subscribers)
    mark("loading")
    skip, began = [len(one.sent_at) for one in publishers], time.perf_counter()
    _publish(reactor, publishers, spec.seconds)
    _all_there(reactor, publishers, subscribers)
    seconds = time.perf_counter() - began
    mark("loaded")
    figures = _figures(publishers, subscribers, skip)
    figures["seconds"] = seconds
    for client in (*publishers, *subscribers):
        client.close()
    for pair, one in enumerate(subscribers):
        forget(reactor, spec.port_of(pair, 0), [one])
    return figures


def _publish(reactor: Reactor, publishers: Sequence[PacedPublisher], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        for one in publishers:
            one.tick(now)
        reactor.step(0.001)


def _all_there(reactor: Reactor, publishers: Sequence[PacedPublisher], subscribers: Sequence[TimedSubscriber]) -> None:
    def done() -> bool:
        return all(one.acked == one.sent for one in publishers) and _delivered(subscribers) >= sum(
            one.sent for one in publishers
        )

    if not reactor.run_while_moving(done, lambda: _delivered(subscribers), STALL)[0]:
        raise LoadError(f"{_delivered(subscribers)} of {sum(one.sent for one in publishers)} messages were delivered")


def _delivered(subscribers: Sequence[TimedSubscriber]) -> int:
    return sum(one.delivered for one in subscribers)


def _figures(publishers: Sequence[PacedPublisher], subscribers: Sequence[TimedSubscriber], skip: Sequence[int]) -> Figures:
    acks: list[int] = []
    behind: list[int] = []
    for publisher, subscriber, first in zip(publishers, subscribers, skip, strict=True):
        times = zip(publisher.sent_at[first:], publisher.acked_at[first:], subscriber.delivered_at[first:], strict=True)
        for sent, acked, delivered in times:
            acks.append(acked - sent)
            behind.append(delivered - acked)
    if not acks:
        raise LoadError("nothing was acknowledged in the measured time")
    figures: Figures = {"acked": len(acks), "delivered": len(behind), "expected": len(acks)}
    figures["misordered"] = sum(one.misordered for one in subscribers)
    for name, values in (("ack", acks), ("behind", behind)):
        values.sort()
        figures[f"{name}_p50"], figures[f"{name}_p99"] = values[len(values) // 2] / 1e6, values[len(values) * 99 // 100] / 1e6
    return figures


SHAPES: dict[str, Callable[[Reactor, Spec, Mark], Figures]] = {"behind": behind}
