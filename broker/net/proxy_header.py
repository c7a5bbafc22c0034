"""The header of the PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): bytes in, the client's address out.

- What comes first must be a whole header; the first byte that does not fit is refused, as is what is longer than it may be.
- The receiver takes no address from a version 1 ``UNKNOWN``, a version 2 ``LOCAL`` (health checks) or a family that has none:
  the connection's own counts.
- A checksum is checked where there is one. Of the other extensions (TLV) the client certificate's common name is read, where
  the proxy verified the certificate; all are walked, and must fit.

Pure.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import NamedTuple

V1, V2 = b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n"
_V1_LONGEST = 107  # with its CR LF
_V2_FIXED = 16
_V2_LONGEST = 4096  # the format allows 65,535 bytes more; with every extension it takes some hundred

_LOCAL, _PROXY = 0x20, 0x21
_SIZES = {0x11: 12, 0x21: 36, 0x31: 216}  # family and transport: bytes of the addresses, of TCP over IPv4, IPv6, Unix
_UNSPECIFIED = 0x00
_CRC32C, _SSL, _SSL_COMMON_NAME = 0x03, 0x20, 0x22
_SHOWED_CERTIFICATE = 0x02 | 0x04  # over this connection, or over the TLS session that it continues


class BadHeader(Exception):
    """What came is no PROXY header. Says what is wrong with it."""


class Header(NamedTuple):
    """Whom the proxy speaks for."""

    source: tuple[str, int] | None
    """The client's address and port; None where the proxy does not say."""
    common_name: str = ""
    """Of the client certificate that the proxy verified."""


def read(data: bytes) -> tuple[Header, bytes] | None:
    """The header, and what came behind it; None where more has to come. Raises `BadHeader`."""
    if data.startswith(V2[: len(data)]):
        return _version_2(data)
    if data.startswith(V1[: len(data)]):
        return _version_1(data)
    raise BadHeader(f"bytes {data[:12].hex(' ')}, where a PROXY header is expected")


# --- version 1: a line of text -----------------------------------------------------------------------------------------


def _version_1(data: bytes) -> tuple[Header, bytes] | None:
    line, end, rest = data.partition(b"\r\n")
    if len(line if end else line.removesuffix(b"\r")) > _V1_LONGEST - 2:
        raise BadHeader(f"a PROXY line of more than {_V1_LONGEST} bytes")
    if not end:
        return None
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise BadHeader("a PROXY line that is not ASCII") from None
    if words[1] == "UNKNOWN":
        return Header(None), rest
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise BadHeader(f"PROXY line {line.decode('ascii')!r}: must be PROXY TCP4 or TCP6, two addresses and two ports")
    address = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    try:
        source, _ = (str(address(word)) for word in words[2:4])
    except ValueError:
        raise BadHeader(f"PROXY line with {words[2]!r} and {words[3]!r}, which are no addresses of {words[1]}") from None
    port, _ = (_port(word) for word in words[4:])
    return Header((source, port)), rest


def _port(word: str) -> int:
    if not word.isdecimal() or (word != "0" and word.startswith("0")) or int(word) > 65535:
        raise BadHeader(f"PROXY line with port {word!r}: must be a number up to 65535")
    return int(word)


# --- version 2: binary ---------------------------------------------------------------------------------------------------


def _version_2(data: bytes) -> tuple[Header, bytes] | None:
    if len(data) > len(V2) and data[12] not in (_LOCAL, _PROXY):
        raise BadHeader(f"PROXY version and command {data[12]:#04x}: must be 0x20 or 0x21")
    if len(data) < _V2_FIXED:
        return None
    command, family, length = struct.unpack_from(">BBH", data, 12)
    if _V2_FIXED + length > _V2_LONGEST:
        raise BadHeader(f"a PROXY header of {_V2_FIXED + length} bytes: must be {_V2_LONGEST} at most")
    if len(data) < _V2_FIXED + length:
        return None
    head, rest = data[: _V2_FIXED + length], data[_V2_FIXED + length :]
    if command == _LOCAL:  # the addresses must be ignored, and whatever follows them
        return Header(None), rest
    if family == _UNSPECIFIED:
        return Header(None), rest
    size = _SIZES.get(family)
    if size is None or length < size:
        raise BadHeader(f"PROXY family {family:#04x} with {length} bytes: must be TCP over IPv4 or IPv6, or a Unix socket")
    return Header(_source(family, head), _extensions(head, _V2_FIXED + size)), rest


def _source(family: int, head: bytes) -> tuple[str, int] | None:
    if family == 0x11:
        return str(ipaddress.IPv4Address(head[16:20])), int.from_bytes(head[24:26])
    if family == 0x21:
        return str(ipaddress.IPv6Address(head[16:32])), int.from_bytes(head[48:50])
    return None  # a program on the proxy's machine


def _extensions(head: bytes, start: int) -> str:
    """Check them; the common name of a certificate that the proxy verified."""
    name = ""
    for kind, at, size in _fields(head, start, len(head)):
        if kind == _CRC32C:
            if size != 4 or crc32c(head[:at] + bytes(4) + head[at + 4 :]) != int.from_bytes(head[at : at + 4]):
                raise BadHeader("a PROXY header whose checksum is wrong")
        elif kind == _SSL:
            if size < 5:
                raise BadHeader(f"a PROXY extension about TLS of {size} bytes: must be 5 or more")
            client, wrong = struct.unpack_from(">BI", head, at)
            verified = client & _SHOWED_CERTIFICATE and not wrong
            for inner, begins, length in _fields(head, at + 5, at + size):
                if inner == _SSL_COMMON_NAME and verified:
                    name = _text(head[begins : begins + length])
    return name


def _fields(head: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, where its value begins, bytes of it) of each extension."""
    while start < end:
        if start + 3 > end:
            raise BadHeader("a PROXY extension that is cut short")
        kind, size = struct.unpack_from(">BH", head, start)
        start += 3
        if start + size > end:
            raise BadHeader(f"a PROXY extension of {size} bytes, where {end - start} are left")
        yield kind, start, size
        start += size


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadHeader("a PROXY extension with a common name that is not UTF-8") from None


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 4960 appendix B)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
