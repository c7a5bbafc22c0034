"""The shapes of load, as the generator's process runs them. `shapes` says what each figure means.

Every shape checks its own counts: ``expected`` deliveries follow from the acknowledged messages, and a figure with
``delivered`` below that is no figure; the table says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import users, wire
from bench.clients import Client, Publisher, Subscriber, TimedPublisher, TimedSubscriber, forget, wait_ready
from bench.reactor import LoadError, Reactor

Figures = dict[str, float]

STALL = 8.0
"""Seconds without any progress after which what is still missing counts as lost."""


@dataclass(frozen=True)
class Spec:
    """What to run. ``run`` is unique per cell and goes into every client id and topic."""

    shape: str
    port: int
    run: str
    version: int = wire.V311
    seconds: float = 3.0
    warm_up: float = 0.7
    pairs: int = 1
    fan: int = 1
    window: int = 64
    size: int = 128
    devices: int = 100
    messages: int = 1000
    connections: int = 2000
    others: int = 0
    durable: int = 0
    transport: str = "tcp"
    """What clients connect by: ``tcp``, ``tls`` or ``ws``."""
    user: str = ""
    password: str = ""
    users: int = 0
    """1: each pair logs in as a user of its own (`bench.users`)."""
    ports: Sequence[int] = ()
    """Of a cluster's nodes; with them, publisher ``n`` is on node ``n`` modulo their number."""
    apart: int = 0
    """So many nodes further is the first of its subscribers, and each next one ``apart_each`` further than the last."""
    apart_each: int = 0
    pause: float = 0.0
    """Seconds from a message's PUBACK to the pair's next message, on average, in `bench.cluster.load`."""

    @property
    def login(self) -> tuple[str, str] | None:
        """What subscribers log in with; None for anonymous ones."""
        return (self.user, self.password) if self.user else None

    def login_of(self, pair: int) -> tuple[str, str] | None:
        """What the publisher of a pair logs in with."""
        return users.login(pair) if self.users else None

    def port_of(self, pair: int, subscriber: int | None = None) -> int:
        """Where the publisher of a pair, or one of its subscribers, connects."""
        if not self.ports:
            return self.port
        away = 0 if subscriber is None else self.apart + subscriber * self.apart_each
        return self.ports[(pair + away) % len(self.ports)]


Mark = Callable[[str], None]
"""Tells the parent where the load stands, and returns when the parent has looked at the broker's memory."""


def checked(publishers: Sequence[Publisher], subscribers: Sequence[Subscriber], fan: int) -> Figures:
    """The counts that every shape has."""
    return {
        "acked": sum(one.acked for one in publishers),
        "refused": sum(one.refused for one in publishers),
        "expected": fan * sum(one.acked for one in publishers),
        "delivered": _delivered(subscribers),
        "redelivered": sum(one.redelivered for one in subscribers),
        "misordered": sum(one.misordered for one in subscribers),
    }


def wait_subscribed(reactor: Reactor, subscribers: Sequence[Subscriber]) -> None:
    reactor.run_until(lambda: all(one.subscribed for one in subscribers), "subscribing", 60)


def _delivered(subscribers: Sequence[Subscriber]) -> int:
    return sum(one.delivered for one in subscribers)


def _acked(publishers: Sequence[Publisher]) -> int:
    return sum(one.acked for one in publishers)


def _finish(reactor: Reactor, publishers: Sequence[Publisher], subscribers: Sequence[Subscriber], fan: int) -> float:
    """Stop publishing, then wait for every ack and every delivery, or until nothing moves; the time of the last delivery."""
    for one in publishers:
        one.stop()
    sent = sum(one.sent for one in publishers)
    if not reactor.run_while_moving(lambda: all(one.done for one in publishers), lambda: _acked(publishers), STALL)[0]:
        raise LoadError(f"only {_acked(publishers)} of {sent} messages were acknowledged")
    due = fan * sent
    return reactor.run_while_moving(lambda: _delivered(subscribers) >= due, lambda: _delivered(subscribers), STALL)[1]


def leave(reactor: Reactor, spec: Spec, publishers: Sequence[Client], subscribers: Sequence[Subscriber]) -> None:
    """Close everything, and end the durable sessions."""
    for client in (*publishers, *subscribers):
        client.close()
    forget(reactor, spec.port, subscribers)


def stream(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """``pairs`` publishers, each with ``fan`` durable subscribers of its own: deliveries per second.

    The clock runs until the last delivery, so that a broker which acknowledges ahead of its deliveries gains nothing.
    """
    subscribers = [
        Subscriber(
            reactor,
            spec.port_of(pair, one),
            f"{spec.run}-s{pair}-{one}",
            f"{spec.run}/{pair}",
            size=spec.size,
            version=spec.version,
            login=spec.login_of(pair) or spec.login,
        )
        for pair in range(spec.pairs)
        for one in range(spec.fan)
    ]
    wait_subscribed(reactor, subscribers)
    others = _connect_others(reactor, spec)
    publishers = [
        Publisher(
            reactor,
            spec.port_of(pair),
            f"{spec.run}-p{pair}",
            f"{spec.run}/{pair}",
            window=spec.window,
            size=spec.size,
            version=spec.version,
            login=spec.login_of(pair),
        )
        for pair in range(spec.pairs)
    ]
    wait_ready(reactor, publishers)
    mark("loading")  # what connecting costs is not what a delivery costs
    for publisher in publishers:
        publisher.start()
    reactor.run_for(spec.warm_up)
    before, acked, busy, began = _delivered(subscribers), _acked(publishers), time.process_time(), time.perf_counter()
    seconds = reactor.run_for(spec.seconds)
    acked, busy = _acked(publishers) - acked, time.process_time() - busy
    ended = _finish(reactor, publishers, subscribers, spec.fan)
    mark("loaded")
    figures = checked(publishers, subscribers, spec.fan)
    rate = (figures["delivered"] - before) / (ended - began)
    figures.update(rate=rate, mb=rate * spec.size / 1e6, ack_rate=acked / seconds, busy=busy / seconds)
    leave(reactor, spec, publishers, [*subscribers, *others])
    return figures


def _connect_others(reactor: Reactor, spec: Spec) -> list[Subscriber]:
    """``others`` more devices, each on a topic of its own that nobody publishes to."""
    others: list[Subscriber] = []
    for start in range(0, spec.others, 200):
        batch = [
            Subscriber(
                reactor,
                spec.port,
                f"{spec.run}-o{number}",
                f"{spec.run}/o{number}",
                size=spec.size,
                version=spec.version,
                login=spec.login,
            )
            for number in range(start, min(start + 200, spec.others))
        ]
        wait_subscribed(reactor, batch)
        others += batch
    return others


def quantiles(nanoseconds: list[int]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds."""
    if not nanoseconds:
        raise LoadError("nothing arrived in the measured time")
    nanoseconds.sort()
    return nanoseconds[len(nanoseconds) // 2] / 1e6, nanoseconds[len(nanoseconds) * 99 // 100] / 1e6


def latency(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """One message in flight, one durable subscriber: milliseconds from sending to the PUBACK, and to the delivery."""
    topic = f"{spec.run}/0"
    subscriber = TimedSubscriber(reactor, spec.port, f"{spec.run}-s", topic, size=spec.size, version=spec.version)
    wait_subscribed(reactor, [subscriber])
    publisher = TimedPublisher(reactor, spec.port, f"{spec.run}-p", topic, size=spec.size, version=spec.version)
    wait_ready(reactor, [publisher])
    publisher.start()
    reactor.run_for(spec.warm_up)
    skip, busy = len(publisher.sent_at), time.process_time()
    seconds = reactor.run_for(spec.seconds)
    busy = time.process_time() - busy
    _finish(reactor, [publisher], [subscriber], 1)
    figures = checked([publisher], [subscriber], 1)
    leave(reactor, spec, [publisher], [subscriber])
    ack = quantiles(
        [after - before for before, after in zip(publisher.sent_at[skip:], publisher.acked_at[skip:], strict=False)]
    )
    figures.update(ack_p50=ack[0], ack_p99=ack[1], busy=busy / seconds)
    if subscriber.delivered == publisher.acked:
        arrived = zip(publisher.sent_at[skip:], subscriber.delivered_at[skip:], strict=False)
        figures["delivery_p50"], figures["delivery_p99"] = quantiles([after - before for before, after in arrived])
    return figures


def _register(reactor: Reactor, spec: Spec, topics: Sequence[str]) -> list[str]:
    """Make durable devices with a subscription each, and disconnect them; returns their client ids."""
    devices = [
        Subscriber(reactor, spec.port, f"{spec.run}-d{number}", topic, size=spec.size, version=spec.version)
        for number, topic in enumerate(topics)
    ]
    wait_subscribed(reactor, devices)
    for device in devices:
        device.close()
    return [device.client_id for device in devices]


def _fill(reactor: Reactor, spec: Spec, topics: Sequence[str], window: int) -> list[Publisher]:
    """Publish ``messages`` to every topic while their devices are away."""
    publishers = [
        Publisher(
            reactor,
            spec.port,
            f"{spec.run}-p{number}",
            topic,
            window=window,
            size=spec.size,
            version=spec.version,
            limit=spec.messages,
        )
        for number, topic in enumerate(topics)
    ]
    wait_ready(reactor, publishers)
    for publisher in publishers:
        publisher.start()
    if not reactor.run_while_moving(lambda: all(one.done for one in publishers), lambda: _acked(publishers), STALL)[0]:
        raise LoadError(f"only {_acked(publishers)} of {spec.messages * len(topics)} messages were acknowledged")
    for publisher in publishers:
        publisher.close()
    return publishers


def _drain(reactor: Reactor, spec: Spec, client_ids: Sequence[str], due: int) -> tuple[list[Subscriber], float]:
    """Reconnect all devices at once; seconds from the first CONNECT to the last message."""
    began = time.perf_counter()
    last = began
    devices = [Subscriber(reactor, spec.port, client_id, "", size=spec.size, version=spec.version) for client_id in client_ids]
    seen, stalled = 0, 0.0
    while seen < due and stalled < STALL:
        reactor.step(0.05)
        now, count = time.perf_counter(), _delivered(devices)
        if count != seen:
            seen, last = count, now
        stalled = now - last
    if not seen:
        raise LoadError(f"none of {due:,} missed messages was delivered within {STALL:g} s of the reconnect")
    return devices, last - began


def drain(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """Durable devices that were away while each got messages on a topic of its own: messages per second as they catch up."""
    topics = [f"{spec.run}/{number}" for number in range(spec.devices)]
    client_ids = _register(reactor, spec, topics)
    publishers = _fill(reactor, spec, topics, window=10)
    busy = time.process_time()
    devices, seconds = _drain(reactor, spec, client_ids, _acked(publishers))
    figures = checked(publishers, devices, 1)
    figures.update(rate=_delivered(devices) / seconds, busy=(time.process_time() - busy) / seconds)
    leave(reactor, spec, [], devices)
    return figures


def backlog(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """One durable device with very many unread messages: the broker's memory while they drain."""
    mark("empty")
    client_ids = _register(reactor, spec, [f"{spec.run}/0"])
    publishers = _fill(reactor, spec, [f"{spec.run}/0"], window=256)
    reactor.run_for(1.0)
    mark("filled")
    devices, seconds = _drain(reactor, spec, client_ids, _acked(publishers))
    mark("drained")
    figures = checked(publishers, devices, 1)
    figures["rate"] = _delivered(devices) / seconds
    leave(reactor, spec, [], devices)
    return figures


def idle(reactor: Reactor, spec: Spec, mark: Mark) -> Figures:
    """Connections that do nothing, or ``durable`` ones with a subscription: the broker's memory before and with them."""

    def grow(count: int, name: str) -> list[Client]:
        clients: list[Client] = []
        for start in range(0, count, 50):
            names = [f"{spec.run}-{name}{number}" for number in range(start, min(start + 50, count))]
            if spec.durable:
                devices = [
                    Subscriber(reactor, spec.port, one, one, size=spec.size, version=spec.version, keep_alive=600)
                    for one in names
                ]
                wait_subscribed(reactor, devices)
                clients += devices
            else:
                batch = [Client(reactor, spec.port, one, version=spec.version, clean=True, keep_alive=600) for one in names]
                wait_ready(reactor, batch)
                clients += batch
        reactor.run_for(1.0)
        return clients

    clients = grow(200, "w")
    mark("empty")
    clients += grow(spec.connections, "i")
    mark("connected")
    for client in clients:
        client.close()
    return {"connections": spec.connections}


SHAPES: dict[str, Callable[[Reactor, Spec, Mark], Figures]] = {
    "stream": stream,
    "latency": latency,
    "drain": drain,
    "backlog": backlog,
    "idle": idle,
}
