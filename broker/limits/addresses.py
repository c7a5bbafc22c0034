"""As whom an address counts. No I/O."""

from __future__ import annotations

import ipaddress


def block_of(host: str) -> str:
    """An IPv4 address as it is, an IPv6 one as its /64, which one customer has whole. Empty for what has no address, such as a
    Unix socket: it counts as nobody."""
    host = host.strip("[]")
    if ":" not in host:
        return host if host and (host[0].isdigit()) else ""
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return ""
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def host_of(peer: str) -> str:
    """The host of a client's ``host:port``."""
    return peer.rpartition(":")[0].strip("[]")
