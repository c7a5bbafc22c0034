"""What config.yaml says of bridges."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from broker.config import split_bind
from broker.packets import ProtocolViolation, parse_share, validate_filter


@dataclass
class Route:
    """Which topics, and what they are called on either side: a topic that ``filter`` matches has ``local`` before it here, and
    ``remote`` there."""

    filter: str
    local: str = ""
    remote: str = ""

    def __post_init__(self) -> None:
        for name, prefix in (("local", self.local), ("remote", self.remote)):
            if "+" in prefix or "#" in prefix:
                raise ValueError(f"{name} {prefix!r}: must hold no wildcard")
        for filter_ in (self.filter, self.local + self.filter, self.remote + self.filter):
            try:
                validate_filter(filter_)
                shared = parse_share(filter_)
            except ProtocolViolation as violation:
                raise ValueError(f"filter: {violation.text}") from None
            if shared is not None:
                raise ValueError(f"filter {filter_!r}: must not be a shared subscription")


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
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.name):
            raise ValueError(f"name {self.name[:70]!r}: must be 1 to 64 letters, digits, dots, dashes or underscores")
        try:
            self.host, self.port = split_bind(self.address)
        except ValueError as error:
            raise ValueError(f"address {self.address!r} {error}") from None
        if not self.host or not self.port:
            raise ValueError(f"address {self.address!r}: must be host:port")
        if not self.send and not self.receive:
            raise ValueError(f"send: {self.name}: neither send nor receive names a topic filter")
        if self.protocol not in (4, 5):
            raise ValueError(f"protocol {self.protocol}: must be 5, or 4 for MQTT 3.1.1")
        if self.start not in ("latest", "earliest"):
            raise ValueError(f"start {self.start!r}: must be latest or earliest")
        if not 5 <= self.keep_alive <= 65535:
            raise ValueError(f"keep_alive {self.keep_alive}: must be 5 to 65535 seconds")
        if not 0 <= self.session_expiry <= 0xFFFFFFFF:
            raise ValueError(f"session_expiry {self.session_expiry}: must be 0 to 4294967295 seconds")
        if not self.tls and (self.cafile or self.certfile or self.keyfile):
            raise ValueError("tls: cafile, certfile and keyfile need tls: true")
        for name in ("cafile", "certfile", "keyfile"):
            path = getattr(self, name)
            if path and not os.path.isfile(path):
                raise ValueError(f"{name} {path!r}: there is no such file that this user can read")
        self.client_id = self.client_id or f"tideline-{self.name}"
