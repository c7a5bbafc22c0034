"""PROXY headers as a proxy writes them."""

from __future__ import annotations

import ipaddress
import struct

from broker.net.proxy_header import V2, crc32c


def v1(source: str = "192.0.2.7", port: int = 4711) -> bytes:
    """A line of version 1."""
    family = "TCP6" if ":" in source else "TCP4"
    there = "::1" if ":" in source else "127.0.0.1"
    return f"PROXY {family} {source} {there} {port} 1883\r\n".encode()


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def certificate(name: str, *, wrong: int = 0, shown: int = 2) -> bytes:
    """What a proxy says of the TLS that it ended, and of the client's certificate there."""
    return extension(0x20, struct.pack(">BI", 1 | shown, wrong) + extension(0x22, name.encode()))


def v2(
    source: str = "192.0.2.7", port: int = 4711, extensions: bytes = b"", *, command: int = 0x21, crc: bool = False
) -> bytes:
    """A header of version 2. ``crc`` adds the checksum."""
    address = ipaddress.ip_address(source)
    there = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    body = address.packed + there.packed + struct.pack(">HH", port, 1883) + extensions
    family = 0x11 if address.version == 4 else 0x21
    if crc:
        body += extension(0x03, bytes(4))
    head = V2 + struct.pack(">BBH", command, family, len(body)) + body
    return head[:-4] + struct.pack(">I", crc32c(head)) if crc else head
