"""The generator's part of `hostile`: many polite clients at a low rate, alone and then beside whoever the parent starts."""

from __future__ import annotations

import time

from bench import wire
from bench.clients import Subscriber
from bench.load import Figures, Mark, Spec, quantiles, wait_subscribed
from bench.reactor import LoadError, Reactor

PHASES = ("alone", "busy", "beside")
"""By themselves, beside processes that only compute, and beside those that make trouble."""
_TIMEOUT = 10.0
"""Seconds after which a message that was not acknowledged counts as lost, and ends the measurement."""


class Polite(Subscriber):
    """A durable device that publishes to itself, one message at a time, and notes how long each took (nanoseconds)."""

    def __init__(self, reactor: Reactor, spec: Spec, number: int) -> None:
        name = f"{spec.run}-c{number}"
        self.acks: list[int] = []
        self.deliveries: list[int] = []
        self.due = 0
        """What is awaited: 2 an ack and a delivery, 1 either of them."""
        self._frame = wire.publish(name, bytes(spec.size))
        self._sent_at = 0
        super().__init__(reactor, spec.port, name, name, size=spec.size, version=spec.version)

    def publish(self) -> None:
        """The next message, unless the last one is under way still."""
        if not self.due:
            self.due, self._sent_at = 2, time.perf_counter_ns()
            self.link.write(self._frame)
        elif time.perf_counter_ns() - self._sent_at > _TIMEOUT * 1e9:
            raise LoadError(f"{self.client_id}: a message was not acknowledged and delivered within {_TIMEOUT:g} s")

    def received(self, buffer: bytearray, run: wire.Run) -> None:
        """Note the time first."""
        took = time.perf_counter_ns() - self._sent_at
        if run[0] == wire.PUBACK:
            self.acks.append(took)
            self.due -= 1
            return
        if run[0] & 0xF0 == wire.PUBLISH:
            self.deliveries.append(took)
            self.due -= 1
        super().received(buffer, run)


def _measured(
    reactor: Reactor, clients: list[Polite], rate: int, seconds: float, warm_up: float
) -> tuple[list[int], list[int]]:
    """Publish in turns, ``rate`` messages a second in all; how long acks and deliveries took."""
    began = time.perf_counter()
    sent, kept = 0, False
    while (now := time.perf_counter() - began) < warm_up + seconds:
        if not kept and now >= warm_up:
            kept = True
            for client in clients:
                client.acks.clear()
                client.deliveries.clear()
        while sent < now * rate:
            clients[sent % len(clients)].publish()
            sent += 1
        reactor.step(max(0.0, min(0.01, sent / rate - now)))
    reactor.run_while_moving(lambda: not any(one.due for one in clients), lambda: -sum(one.due for one in clients), _TIMEOUT)
    return [took for one in clients for took in one.acks], [took for one in clients for took in one.deliveries]


def polite(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """``connections`` clients, ``messages`` messages a second in all: milliseconds in each of `PHASES`."""
    clients: list[Polite] = []
    for start in range(0, spec.connections, 100):
        batch = [Polite(reactor, spec, number) for number in range(start, min(start + 100, spec.connections))]
        wait_subscribed(reactor, batch)
        clients += batch
    figures: Figures = {}
    for phase in PHASES:
        mark(phase)
        acks, deliveries = _measured(reactor, clients, spec.messages, spec.seconds, spec.warm_up)
        if any(one.due for one in clients):
            raise LoadError(f"{phase}: {sum(one.due > 0 for one in clients)} messages were never acknowledged and delivered")
        figures[f"{phase}_ack_p50"], figures[f"{phase}_ack_p99"] = quantiles(acks)
        figures[f"{phase}_delivery_p50"], figures[f"{phase}_delivery_p99"] = quantiles(deliveries)
    mark("over")
    return figures
