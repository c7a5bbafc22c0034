"""Bans: who is not let in, by user, client id or address, until when and why.

They are stored settings of the kind ``ban``. The key is ``user:u/alice``, ``client:sensor-7`` or ``address:10.0.0.0/8``; the
value a JSON object with ``until`` (ms of the time that deadlines are compared with; 0: for ever), ``reason``, ``by`` and
``since``.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

log = logging.getLogger(__name__)

KIND = "ban"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Ban(NamedTuple):
    """One ban. ``kind`` is user, client or address, ``what`` the user key, the client id or the network."""

    kind: str
    what: str
    until: int = 0
    reason: str = ""
    by: str = ""
    since: int = 0

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.what}"

    def over(self, now: int) -> bool:
        """Whether its time has passed at ``now`` (ms)."""
        return 0 < self.until <= now

    def value(self) -> bytes:
        """What is stored under its key."""
        return json.dumps({"until": self.until, "reason": self.reason, "by": self.by, "since": self.since}).encode()

    @classmethod
    def read(cls, key: str, value: bytes) -> Ban:
        """What was stored. Raises ValueError."""
        kind, _, what = key.partition(":")
        if kind == "address":
            network(what)
        elif kind not in ("user", "client"):
            raise ValueError(f"{kind!r} is no kind of ban")
        fields = json.loads(value)
        return cls(kind, what, int(fields["until"]), str(fields["reason"]), str(fields["by"]), int(fields["since"]))


def network(text: str) -> Network:
    """An address or a network (CIDR). Raises ValueError, also where bits behind the network's are set."""
    found = ipaddress.ip_network(text)
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96 and found.network_address.ipv4_mapped:
        return ipaddress.ip_network(f"{found.network_address.ipv4_mapped}/{found.prefixlen - 96}")
    return found


class Bans:
    """Those that there are."""

    def __init__(self) -> None:
        self._every: dict[str, Ban] = {}
        """By key, in the order of keys."""
        self._keys: list[str] = []
        self._named: dict[str, Ban] = {}
        """By key, of users and client ids."""
        self._networks: list[tuple[Network, Ban]] = []
        self.none = True
        """There is no ban, not even one that is over."""
        self.changes = 0
        """Another number once they are others."""

    def put(self, settings: Mapping[str, bytes]) -> None:
        """These are all there are now."""
        self._named, self._networks = {}, []
        self.changes += 1
        found: list[Ban] = []
        for key, value in settings.items():
            try:
                ban = Ban.read(key, value)
            except (ValueError, KeyError, TypeError) as error:
                log.error("ban %r is not kept to, as it cannot be read: %s", key[:80], error)
                continue
            found.append(ban)
            if ban.kind == "address":
                self._networks.append((network(ban.what), ban))
            else:
                self._named[key] = ban
        self._every = {ban.key: ban for ban in sorted(found, key=lambda ban: ban.key)}
        self._keys = list(self._every)
        self.none = not self._every

    def all(self) -> list[Ban]:
        """By key, those that are over too."""
        return list(self._every.values())

    def page(self, after: str, limit: int) -> list[Ban]:
        """Up to ``limit`` of them with a key > ``after``."""
        start = bisect_right(self._keys, after)
        return [self._every[key] for key in self._keys[start : start + limit]]

    def get(self, key: str) -> Ban | None:
        """The one of a key, which may be over."""
        return self._every.get(key)

    def of(self, now: int, *, user: str = "", client: str = "", address: str = "") -> Ban | None:
        """What keeps somebody out at ``now`` (ms); None for nothing. ``address`` is without a port."""
        if self.none:
            return None
        for key in (f"user:{user}", f"client:{client}"):
            ban = self._named.get(key)
            if ban is not None and not ban.over(now):
                return ban
        return self._of_address(address, now) if self._networks else None

    def _of_address(self, text: str, now: int) -> Ban | None:
        try:
            address = ipaddress.ip_address(text.strip("[]"))
        except ValueError:  # of a Unix socket, say
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return next((ban for network, ban in self._networks if address in network and not ban.over(now)), None)
