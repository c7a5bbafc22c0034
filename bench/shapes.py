"""What is measured: the shapes of load with their sizes, and the rows that the table reads off them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    takes too long.
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

SHAPES = (ONE, PAIRS, FAN_OUT, LATENCY, DRAIN, IDLE, IDLE_DEVICES, BACKLOG)
THROUGHPUT = (ONE, PAIRS, FAN_OUT)


@dataclass(frozen=True)
class Target:
    """What Tideline is to reach: a ratio to a peer, or an absolute figure where ``peer`` is empty."""

    shape: str
    figure: str
    peer: str
    bound: float
    text: str


TARGETS = (
    *(
        Target(shape.name, "rate", peer, ratio, f"at least {ratio:g} times {peer}")
        for shape in THROUGHPUT
        for peer, ratio in (("nats", 1.5), ("rabbitmq", 5.0), ("amqtt", 8.0))
    ),
    Target("latency", "ack_p50", "nats", 1.0, "no worse than nats"),
    Target("idle", "kb", "", 6.0, "at most 6 KB"),
    Target("idle-devices", "kb", "", 6.0, "at most 6 KB"),
    Target("backlog", "growth", "", 50.0, "less than 50 MB"),
)
