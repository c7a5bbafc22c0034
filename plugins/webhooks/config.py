"""What config.yaml says of webhooks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from broker.config import parse_duration
from broker.packets import ProtocolViolation, validate_filter, validate_name
from plugins.webhooks.signature import key_of

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
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.name):
            raise ValueError(f"name {self.name[:70]!r}: must be 1 to 64 letters, digits, dots, dashes or underscores")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url of {self.name}: must be http://host/… or https://host/…")
        if "@" in parts.netloc:
            raise ValueError(f"url of {self.name}: must not hold a user or password: what is told is signed by its secrets")
        if not self.secrets:
            raise ValueError(f"secrets of {self.name}: at least one is needed: whsec_ and what openssl rand -base64 32 says")
        try:
            self.keys = [key_of(secret) for secret in self.secrets]
        except ValueError as error:
            raise ValueError(f"secrets of {self.name}: {error}") from None
        wrong = [event for event in self.events if event not in EVENTS]
        if wrong or not self.events:
            raise ValueError(f"events {', '.join(wrong) or 'none'}: must be some of {', '.join(EVENTS)}")
        if self.start not in ("latest", "earliest"):
            raise ValueError(f"start {self.start!r}: must be latest or earliest")
        if not 1 <= self.batch <= 1000:
            raise ValueError(f"batch {self.batch}: must be 1 to 1000")
        if not 1 <= self.timeout <= 300:
            raise ValueError(f"timeout {self.timeout}: must be 1 to 300 seconds")
        self._check_topics()
        self.patience = self._patience()

    def _check_topics(self) -> None:
        self.dead_letters = self.dead_letters or f"dead-letters/{self.name}"
        try:
            for filter_ in self.filters:
                validate_filter(filter_)
        except ProtocolViolation as violation:
            raise ValueError(f"filters of {self.name}: {violation.text}") from None
        try:
            validate_name(self.dead_letters)
        except ProtocolViolation as violation:
            raise ValueError(f"dead_letters of {self.name}: {violation.text}") from None

    def _patience(self) -> float:
        try:
            found = parse_duration(self.give_up_after)
            if not isinstance(found, int | float):
                raise ValueError("must be a duration")
        except ValueError as error:
            raise ValueError(f"give_up_after {self.give_up_after!r}: {error}") from None
        return float(found)

    @property
    def of_clients(self) -> bool:
        """Whether it is told who comes and goes."""
        return CONNECTED in self.events or DISCONNECTED in self.events
