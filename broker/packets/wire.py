"""The data types of MQTT's wire (5.0, 1.5): integers, strings, binary data.

Readers take ``(data, at, end)``, where ``end`` is the end of the packet, and return ``(value, next)``. They raise
`MalformedPacket` where the value would pass ``end`` or is not what its type allows, and never read past it.
"""

from __future__ import annotations

import re
from typing import Final

from broker.packets.codes import MalformedPacket

MAX_VARINT: Final = 0x0FFFFFFF

BYTES: Final = [bytes((value,)) for value in range(256)]
"""Each byte. A packet identifier is written as two of them: to make it of an integer took as long as all else of a frame."""

_NON_CHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_UNFIT: Final = re.compile(f"[\0-\x1f\x7f-\x9f\ufdd0-\ufdef{_NON_CHARACTERS}]")


def read_u8(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A byte."""
    if at >= end:
        raise MalformedPacket("packet ends inside a byte")
    return data[at], at + 1


def read_u16(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A two-byte integer."""
    if at + 2 > end:
        raise MalformedPacket("packet ends inside a two-byte integer")
    return data[at] << 8 | data[at + 1], at + 2


def read_u32(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A four-byte integer."""
    if at + 4 > end:
        raise MalformedPacket("packet ends inside a four-byte integer")
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A variable byte integer: one to four bytes, as few as can hold it [MQTT-1.5.5-1]."""
    value = 0
    for shift in (0, 7, 14, 21):
        if at >= end:
            raise MalformedPacket("packet ends inside a variable byte integer")
        digit = data[at]
        at += 1
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            if not digit and shift:
                raise MalformedPacket(f"variable byte integer {value} is longer than it needs to be")
            return value, at
    raise MalformedPacket("variable byte integer is longer than 4 bytes")


def read_binary(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Binary data: a two-byte length and so many bytes."""
    if at + 2 > end:
        raise MalformedPacket("packet ends inside a length")
    stop = at + 2 + (data[at] << 8 | data[at + 1])
    if stop > end:
        raise MalformedPacket(f"length {stop - at - 2} passes the end of the packet by {stop - end}")
    return data[at + 2 : stop], stop


def read_string(data: bytes, at: int, end: int) -> tuple[str, int]:
    """A UTF-8 encoded string."""
    raw, at = read_binary(data, at, end)
    return to_text(raw), at


def to_text(raw: bytes) -> str:
    """Decode UTF-8: no surrogates or overlong forms [MQTT-1.5.4-1], no U+0000 [MQTT-1.5.4-2]; U+FEFF stays [MQTT-1.5.4-3]."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket(f"string is not UTF-8 at byte {error.start}") from None
    if "\0" in text:
        raise MalformedPacket("string holds U+0000")
    return text


def check_identifier(text: str, kind: str) -> None:
    """Raise `MalformedPacket` where a name that others see, log and match holds a control or a non-character.

    The specification leaves it to the server (1.5.4, in 3.1.1 1.5.3). Free text, such as a user property, may hold them.
    """
    if text.isascii() and text.isprintable():  # as nearly all are: a fiftieth of what the search costs
        return
    unfit = _UNFIT.search(text)
    if unfit:
        raise MalformedPacket(f"{kind} {shown(text)} holds U+{ord(unfit[0]):04X}")


def shown(text: str) -> str:
    """A peer's text as an error may quote it: escaped and short."""
    return ascii(text if len(text) <= 64 else text[:61] + "...")


def varint(value: int) -> bytes:
    """Encode a variable byte integer in as few bytes as can hold it [MQTT-1.5.5-1]."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} does not fit a variable byte integer (0 to {MAX_VARINT})")
    if value < 0x80:
        return bytes((value,))
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def binary(value: bytes) -> bytes:
    """Encode binary data with its length in front."""
    if len(value) > 0xFFFF:
        raise ValueError(f"{len(value)} bytes do not fit a field of at most 65535")
    return len(value).to_bytes(2, "big") + value


def string(value: str) -> bytes:
    """Encode a string with its length in front."""
    return binary(value.encode())
