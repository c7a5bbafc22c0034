"""What config.yaml says of webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from broker.config import parse_duration
from broker.errors import refuse
from broker.packets import ProtocolViolation, matches, validate_filter, validate_name
from plugins.tail_place import file_faults, name_faults, start_faults
from plugins.webhooks.signature import key_of
from storage.records import Message

STORED, OFFLINE = "message.stored", "message.offline"
CONNECTED, DISCONNECTED = "client.connected", "client.disconnected"
EVENTS = (STORED, OFFLINE, CONNECTED, DISCONNECTED)


@dataclass
class Hook:
    """One service that is told."""

    name: str
    """What its place among the events is kept under. Another name begins anew."""
    url: str
    """Where it is told: http:// or https://."""
    secrets: list[str] = field(default_factory=list, repr=False)
    """With what requests are signed: ``whsec_…``, as the Standard Webhooks specification writes them. All sign, to roll one."""
    events: list[str] = field(default_factory=lambda: [STORED])
    """Which: message.stored, message.offline, client.connected, client.disconnected."""
    filters: list[str] = field(default_factory=lambda: ["#"])
    """Topic filters: events of messages that one matches are told."""
    payloads: bool = True
    """Whether the message's payload and properties are told, or only what and where it is."""
    start: str = "latest"
    """Where a name that is new begins: ``latest``, or ``earliest``, with all that is stored."""
    batch: int = 1
    """Events in one request, at most."""
    timeout: int = 10
    """Seconds that one request may take."""
    give_up_after: str | int = 0
    """After how long what is not taken becomes a dead letter; 0 is never."""
    dead_letters: str = ""
    """The topic of its dead letters; ``dead-letters/<name>`` where empty."""
    cafile: str = ""
    """A PEM file with who signs the service's certificate, instead of the system's."""

    def __post_init__(self) -> None:
        self.dead_letters = self.dead_letters or f"dead-letters/{self.name}"
        refuse(self._faults())
        self.keys = [key_of(secret) for secret in self.secrets]
        self.patience = _seconds(self.give_up_after)

    def _faults(self) -> Iterator[str]:
        yield from name_faults(self.name)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield "url: must be http://host/… or https://host/…"
        if "@" in parts.netloc:
            yield "url: must not hold a user or password: what is told is signed by its secrets"
        if not self.secrets:
            yield "secrets: at least one is needed: whsec_ and what openssl rand -base64 32 says"
        yield from _problems("secrets", key_of, self.secrets)
        wrong = [event for event in self.events if event not in EVENTS]
        if wrong or not self.events:
            yield f"events {', '.join(wrong) or 'none'!r}: must be some of {', '.join(EVENTS)}"
        yield from start_faults(self.start)
        if not 1 <= self.batch <= 1000:
            yield f"batch {self.batch}: must be 1 to 1000"
        if not 1 <= self.timeout <= 300:
            yield f"timeout {self.timeout}: must be 1 to 300 seconds"
        yield from _problems("filters", validate_filter, self.filters)
        yield from _problems("dead_letters", validate_name, [self.dead_letters])
        yield from _problems("give_up_after", _seconds, [self.give_up_after])
        yield from file_faults("cafile", self.cafile)

    @property
    def place(self) -> str:
        """What its place among all that is stored is kept under."""
        return f"webhook:{self.name}"

    def wants(self, message: Message) -> bool:
        """Whether events of a message are told."""
        return any(matches(filter_, message.topic) for filter_ in self.filters)

    @property
    def of_clients(self) -> bool:
        """Whether it is told who comes and goes."""
        return CONNECTED in self.events or DISCONNECTED in self.events


def _problems(name: str, check: Callable[[Any], object], values: Iterable[object]) -> Iterator[str]:
    """What ``check`` has against each of them."""
    for value in values:
        try:
            check(value)
        except ProtocolViolation as violation:
            yield f"{name}: {violation.text}"
        except ValueError as error:
            yield f"{name}: {error}"


def _seconds(duration: str | int) -> float:
    try:
        return float(cast(float, parse_duration(duration)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{duration!r}: {error}") from None
