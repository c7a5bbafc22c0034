"""What is measured: the shapes of load with their sizes, and the rows that the table reads off them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of a shape."""

    figure: str
    title: str
    unit: str
    more_is_better: bool = True
    digits: int = 0


@dataclass(frozen=True)
class Shape:
    """One kind of load.

    ``load`` names the function in `bench.load`; ``sizes`` are its parameters, ``quick`` replaces some of them under
    ``--quick``. ``fresh`` asks for a newly started broker with empty data, where memory is compared.
    ``rounds`` caps the rounds of the slow ones (0: no cap). ``skip`` names peers for which the shape makes no sense or
    takes too long. ``disk``: the bare disk has these figures too.
    ``transport``: what clients connect by; brokers that have no such listener are left out.
    ``ruled``: the broker has users with passwords, and rules (`bench.users`); brokers that are not told to here are left out.
    """

    name: str
    title: str
    load: str
    rows: tuple[Row, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    quick: Mapping[str, int] = field(default_factory=dict)
    fresh: bool = False
    rounds: int = 0
    skip: tuple[str, ...] = ()
    disk: bool = False
    transport: str = "tcp"
    ruled: bool = False
    timeout: float = 180.0


_RATE = "deliveries/s"
_COST = Row("cpu_us", "… broker's processor time each", "µs", False, 1)

ONE = Shape(
    "one",
    "1 publisher to 1 subscriber, window 64",
    "stream",
    (Row("rate", "1 to 1, window 64", _RATE), _COST),
    {"pairs": 1, "fan": 1, "window": 64},
)
PAIRS = Shape(
    "pairs",
    "10 publishers, each to 1 subscriber, window 64",
    "stream",
    (Row("rate", "10 pairs, window 64", _RATE), _COST),
    {"pairs": 10, "fan": 1, "window": 64},
)
FAN_OUT = Shape(
    "fan-out",
    "2 publishers, each to 10 subscribers, window 64",
    "stream",
    (Row("rate", "2 publishers to 10 each", _RATE), _COST),
    {"pairs": 2, "fan": 10, "window": 64},
)
RULED = Shape(
    "ruled",
    "10 publishers, each to 1 subscriber, window 64, all with passwords and access rules",
    "stream",
    (Row("rate", "10 pairs with passwords and rules", _RATE), _COST),
    {"pairs": 10, "fan": 1, "window": 64, "users": 1},
    ruled=True,
)
LATENCY = Shape(
    "latency",
    "1 publisher to 1 subscriber, window 1",
    "latency",
    (
        Row("ack_p50", "window 1: ack, p50", "ms", False, 3),
        Row("ack_p99", "window 1: ack, p99", "ms", False, 3),
        Row("delivery_p50", "window 1: delivery, p50", "ms", False, 3),
        Row("delivery_p99", "window 1: delivery, p99", "ms", False, 3),
    ),
    disk=True,
)
MANY = Shape(
    "many",
    "1,000 publishers with 20 messages a second each, 10 durable readers",
    "many",
    (
        Row("ack_p50", "1,000 at 20/s each: ack, p50", "ms", False, 2),
        Row("ack_p99", "1,000 at 20/s each: ack, p99", "ms", False, 2),
        Row("cpu_us", _COST.title, "µs", False, 1),
        Row("late_p99", "… the generator was late, p99", "ms", False, 2),
    ),
    {"connections": 1000, "messages": 20},
    {"connections": 200},
)


def _carried(shape: Shape, transport: str, title: str) -> Shape:
    """The same by TLS or WebSocket: what a message costs more. In a WebSocket each packet is a frame, as clients send them."""
    rows = tuple(replace(row, title=row.title if row.title.startswith("…") else f"{row.title}, {title}") for row in shape.rows)
    return replace(shape, name=f"{shape.name}-{transport}", title=f"{shape.title}, {title}", rows=rows, transport=transport)


CARRIED = tuple(_carried(shape, *by) for by in (("tls", "TLS"), ("ws", "WebSocket")) for shape in (ONE, MANY))


def _payload(name: str, title: str, size: int, window: int) -> Shape:
    return Shape(
        f"payload-{name}",
        f"4 publishers, each to 1 subscriber, {title} of payload, window {window}",
        "stream",
        (Row("rate", f"4 pairs, {title}", _RATE), Row("mb", "…", "MB/s")),
        {"pairs": 4, "size": size, "window": window},
        disk=True,
    )


# The largest is a packet of 1 MiB with its topic, which is what brokers take by default.
PAYLOADS = (
    _payload("128", "128 bytes", 128, 64),
    _payload("1k", "1 KiB", 1 << 10, 64),
    _payload("64k", "64 KiB", 64 << 10, 16),
    _payload("1m", "1 MiB", (1 << 20) - 256, 4),
)
DRAIN = Shape(
    "drain",
    "100 durable devices return to 1,000 missed messages each",
    "drain",
    (Row("rate", "100 devices drain 1,000 each", "messages/s"),),
    {"devices": 100, "messages": 1000},
    {"devices": 20, "messages": 500},
    skip=("generator",),
)
IDLE = Shape(
    "idle",
    "2,000 idle connections, clean session, keep-alive 600 s",
    "idle",
    (Row("kb", "idle connection", "KB", False, 1),),
    {"connections": 2000},
    {"connections": 1000},
    fresh=True,
    skip=("generator",),
)
IDLE_DEVICES = Shape(
    "idle-devices",
    "2,000 idle connections, durable session with one subscription each",
    "idle",
    (Row("kb", "idle durable device", "KB", False, 1),),
    {"connections": 2000, "durable": 1},
    {"connections": 1000},
    fresh=True,
    skip=("generator",),
)


def _storm(transport: str, title: str) -> Shape:
    return Shape(
        f"storm-{transport}",
        f"10,000 clients connect at once, {title}, and stay",
        "storm",
        (
            Row("rate", f"10,000 connect, {title}", "connects/s"),
            Row("core_rate", "… by a core of the broker's", "connects/s"),
            Row("kb", "… memory of each", "KB", False, 1),
        ),
        {"connections": 10_000},
        {"connections": 1000},
        fresh=True,
        skip=("generator", "amqtt", "rabbitmq"),
        transport=transport,
    )


STORMS = (_storm("tcp", "plain"), _storm("tls", "TLS"), _storm("ws", "WebSocket"))
BACKLOG = Shape(
    "backlog",
    "1 durable device returns to a million unread messages",
    "backlog",
    (
        Row("rate", "a million unread drain", "messages/s"),
        Row("growth", "… memory growth while draining", "MB", False, 1),
        Row("peak", "… peak memory above an empty broker", "MB", False, 1),
    ),
    {"messages": 1_000_000},
    {"messages": 50_000},
    fresh=True,
    rounds=1,
    skip=("generator", "rabbitmq", "amqtt"),
    timeout=600,
)


# What is measured in a way of its own; the table of the release, and the targets, read these rows.
START = Shape(
    "start",
    "start with very many messages and sessions",
    "",
    (
        Row("stopped", "start, processor time", "s", False, 1),
        Row("killed", "start after a kill, processor time", "s", False, 1),
        Row("seconds", "10 million messages, 1 million sessions: start", "s", False, 1),
    ),
)
BYTES = Shape(
    "bytes",
    "bytes on disk of a message of 68 bytes",
    "",
    tuple(Row(kind, f"bytes on disk: {kind}", "", False) for kind in ("store", "inbox", "index", "all")),
)
SEARCH = Shape(
    "search",
    "search beside publishing",
    "",
    (
        Row("rate", "publishing with search", "messages/s"),
        Row("soon", "20,000/s: findable, p99", "ms", False),
        Row("beside", "20,000/s beside full load: findable, p99", "ms", False),
        Row("behind", "behind a burst, times its length", "", False, 1),
    ),
)

SHAPES = (ONE, PAIRS, FAN_OUT, RULED, LATENCY, MANY, *CARRIED, *PAYLOADS, DRAIN, IDLE, IDLE_DEVICES, *STORMS, BACKLOG)
APART = (START, BYTES, SEARCH)
THROUGHPUT = (ONE, PAIRS, FAN_OUT)


@dataclass(frozen=True)
class Target:
    """What ``by`` is to reach: so many times a peer's figure, or an absolute one where ``peer`` is empty."""

    shape: str
    figure: str
    peer: str
    bound: float
    text: str
    by: str = "tideline"


def _times(shape: Shape, peer: str, bound: float, by: str = "tideline") -> Target:
    whose = "" if by == "tideline" else f"{by} "
    return Target(shape.name, "rate", peer, bound, f"{whose}at least {bound:g} times {peer}", by)


TARGETS = (
    *(_times(shape, "nats", bound) for shape, bound in ((ONE, 2.0), (PAIRS, 3.0), (FAN_OUT, 3.0))),
    *(_times(shape, "mosquitto", bound) for shape, bound in ((ONE, 1.2), (PAIRS, 1.5), (FAN_OUT, 2.0))),
    *(_times(shape, peer, bound) for shape in THROUGHPUT for peer, bound in (("rabbitmq", 5.0), ("amqtt", 8.0))),
    *(_times(shape, "tideline", 0.75, "tideline-pure") for shape in THROUGHPUT),
    Target("latency", "ack_p50", "disk", 1 / 1.6, "at most 1.6 bare fsyncs"),
    Target("many", "ack_p99", "", 5.0, "at most 5 ms"),
    Target("storm-tls", "core_rate", "", 3000.0, "3,000 connects/s or more"),
    Target("storm-tls", "kb", "", 12.0, "at most 12 KB"),
    Target("search", "rate", "without", 0.9, "at least 0.9 times without"),
    Target("search", "beside", "", 1000.0, "under 1,000 ms"),
    Target("search", "behind", "", 1.0, "at most 1"),
    Target("start", "seconds", "", 10.0, "within 10 s"),
    Target("bytes", "all", "", 250.0, "at most 250"),
    Target("idle", "kb", "", 6.0, "at most 6 KB"),
    Target("idle-devices", "kb", "", 6.0, "at most 6 KB"),
    Target("backlog", "growth", "", 50.0, "less than 50 MB"),
)
