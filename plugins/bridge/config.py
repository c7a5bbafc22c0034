"""What config.yaml says of bridges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.config import split_bind
from broker.errors import refuse
from broker.packets import ProtocolViolation, parse_share, validate_filter
from plugins.tail_place import file_faults, name_faults, start_faults


@dataclass
class Route:
    """Which topics, and what they are called on either side: a topic that ``filter`` matches has ``local`` before it here, and
    ``remote`` there."""

    filter: str
    local: str = ""
    remote: str = ""

    def __post_init__(self) -> None:
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        for name, prefix in (("local", self.local), ("remote", self.remote)):
            if "+" in prefix or "#" in prefix:
                yield f"{name} {prefix!r}: must hold no wildcard"
        for filter_ in dict.fromkeys((self.filter, self.local + self.filter, self.remote + self.filter)):
            try:
                validate_filter(filter_)
                shared = parse_share(filter_)
            except ProtocolViolation as violation:
                yield f"filter: {violation.text}"
                return
            if shared is not None:
                yield f"filter {filter_!r}: must not be a shared subscription"


@dataclass
class Bridge:
    """One bridge."""

    name: str
    """What its place is kept under. Another name begins anew."""
    address: str
    """``host:port`` of the other broker."""
    send: list[Route] = field(default_factory=list)
    """What goes there."""
    receive: list[Route] = field(default_factory=list)
    """What comes from there."""
    protocol: int = 5
    """5, or 4 for MQTT 3.1.1."""
    client_id: str = ""
    """``tideline-<name>`` where empty. The session that the other broker keeps."""
    username: str = ""
    password: str = field(default="", repr=False)
    session_expiry: int = 604800
    """Seconds for which the other broker keeps what comes while this one is away (MQTT 5)."""
    keep_alive: int = 60
    start: str = "latest"
    """Where a name that is new begins to send: ``latest``, or ``earliest``, with all that is stored."""
    tls: bool = False
    cafile: str = ""
    """Who signs its certificate, instead of the system's."""
    certfile: str = ""
    """A certificate of this broker's own, with its ``keyfile``."""
    keyfile: str = ""

    def __post_init__(self) -> None:
        refuse(self._faults())
        self.host, self.port = split_bind(self.address)
        self.client_id = self.client_id or f"tideline-{self.name}"

    def _faults(self) -> Iterator[str]:
        yield from name_faults(self.name)
        try:
            if not all(split_bind(self.address)):
                yield f"address {self.address!r}: must be host:port"
        except ValueError as error:
            yield f"address {self.address!r} {error}"
        if not self.send and not self.receive:
            yield "send: neither send nor receive names a topic filter"
        if self.protocol not in (4, 5):
            yield f"protocol {self.protocol}: must be 5, or 4 for MQTT 3.1.1"
        yield from start_faults(self.start)
        if not 5 <= self.keep_alive <= 65535:
            yield f"keep_alive {self.keep_alive}: must be 5 to 65535 seconds"
        if not 0 <= self.session_expiry <= 0xFFFFFFFF:
            yield f"session_expiry {self.session_expiry}: must be 0 to 4294967295 seconds"
        if not self.tls and (self.cafile or self.certfile or self.keyfile):
            yield "tls: cafile, certfile and keyfile need tls: true"
        for name in ("cafile", "certfile", "keyfile"):
            yield from file_faults(name, getattr(self, name))
