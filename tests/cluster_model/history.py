"""What happened, as the clients saw it: facts in the order of one count, ``at``. The checker judges them (`checker`)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Published:
    """A message that a client sent. ``acked``: when PUBACK or PUBREC came; ``broken``: its connection ended before that."""

    payload: str
    topic: str
    qos: int
    retain: bool
    device: str
    at: int
    number: int
    """Rises with each message of its publisher."""
    sendings: int = 1
    acked: int = 0
    broken: bool = False
    given_up: bool = False
    """Its client's session was not there any more, so that nobody sends it again."""


@dataclass
class Subscribed:
    """A filter of a session. ``acked``: when SUBACK came; ``ended``: when UNSUBSCRIBE was sent, or the session was replaced."""

    device: str
    session: int
    connection: int
    filter: str
    qos: int
    acked: int = 0
    ended: int = 0


@dataclass
class Received:
    """A PUBLISH that a client got. ``fresh``: no repetition that its QoS 2 state knows. ``acked``: when it said so, seconds."""

    device: str
    session: int
    connection: int
    payload: str
    topic: str
    qos: int
    retain: bool
    at: int
    fresh: bool = True
    acked: float = 0.0


@dataclass
class Connected:
    """A connection that got its CONNACK. ``number`` counts a device's connections, ``session`` its sessions."""

    device: str
    number: int
    session: int
    node: str
    at: int
    time: float
    present: bool
    durable: bool
    will: str = ""
    delay: int = 0
    """Seconds after which the will is due, or its session ends."""
    expiry: int = 0
    """Seconds after which its session ends."""
    ended: int = 0
    ended_time: float = 0.0
    said_goodbye: bool = False
    forsaken: bool = False
    """The client went away and its end was never closed, so that only the broker can do that."""


@dataclass
class Dialled:
    """A CONNECT that was sent. Where no CONNACK came, the broker may still open it, at any time."""

    device: str
    number: int
    clean: bool
    expiry: int
    answered: bool = False


@dataclass
class Trouble:
    """Seconds in which a node could not do its work. ``told``: it ends as it was told to, and stores what it has to."""

    node: str
    begin: float
    end: float = float("inf")
    told: bool = False


@dataclass
class History:
    """All of it; the last ones are filled at the end, from the database."""

    published: dict[str, Published] = field(default_factory=dict)
    subscribed: list[Subscribed] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    dialled: list[Dialled] = field(default_factory=list)
    connected: list[Connected] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What a node logged as its own fault, and what had not come to rest at the end."""
    count: int = 0
    stored: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """By topic: (sequence, payload) of its conversation."""
    inboxes: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """By user: (sequence, payload)."""
    users: dict[str, str] = field(default_factory=dict)
    """By device."""
    open_at_end: list[tuple[str, int]] = field(default_factory=list)
    """(device, connection) of each client's end that is open."""

    def tick(self) -> int:
        """One more thing happens."""
        self.count += 1
        return self.count
