"""A tiny MQTT 3.1.1 and 5 codec for load: whole windows at a time, never an object per packet.

Frames of one kind that follow each other have the same length, so a window of them is a table with one frame a row.
Packet ids and numbers are then columns, read and written with one strided slice for any number of frames.
"""

from __future__ import annotations

V311, V5 = 4, 5

CONNACK, PUBLISH, PUBACK, SUBACK, DISCONNECT = 0x20, 0x30, 0x40, 0x90, 0xE0

CYCLE = 1024
"""Messages are numbered modulo this, in the first two bytes of the payload; packet ids are 1 to CYCLE."""

_NUMBER_HIGH = bytes(number >> 8 for number in range(CYCLE)) * 2
_NUMBER_LOW = bytes(number & 255 for number in range(CYCLE)) * 2
_ID_HIGH = bytes(number >> 8 for number in range(1, CYCLE + 1)) * 2
_ID_LOW = bytes(number & 255 for number in range(1, CYCLE + 1)) * 2
Run = tuple[int, int, int, int, int]
"""Equal-length frames behind each other: first byte, position, length of the fixed header, length of a frame, count."""


def varint(value: int) -> bytes:
    """A variable byte integer, which is how MQTT writes lengths."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _frame(first: int, body: bytes) -> bytes:
    return bytes([first]) + varint(len(body)) + body


def connect(
    client_id: str, *, version: int = V311, clean: bool = True, keep_alive: int = 0, login: tuple[str, str] | None = None
) -> bytes:
    """CONNECT, with user name and password or without. Durable in version 5 means a session that never expires."""
    properties = b""
    if version == V5:
        expiry = b"" if clean else b"\x11\xff\xff\xff\xff"
        properties = varint(len(expiry)) + expiry
    flags = (2 if clean else 0) | (0xC0 if login else 0)
    head = _string("MQTT") + bytes([version, flags]) + keep_alive.to_bytes(2, "big")
    return _frame(0x10, head + properties + b"".join(_string(text) for text in (client_id, *(login or ()))))


def subscribe(packet_id: int, topic_filter: str, *, qos: int = 1, version: int = V311) -> bytes:
    """SUBSCRIBE to one filter."""
    properties = b"\0" if version == V5 else b""
    return _frame(0x82, packet_id.to_bytes(2, "big") + properties + _string(topic_filter) + bytes([qos]))


def publish(topic: str, payload: bytes, packet_id: int = 1) -> bytes:
    """One QoS 1 PUBLISH of version 3.1.1."""
    return _frame(PUBLISH | 2, _string(topic) + packet_id.to_bytes(2, "big") + payload)


def disconnect() -> bytes:
    """DISCONNECT, the same bytes in both versions."""
    return b"\xe0\x00"


class Sheet:
    """QoS 1 PUBLISH frames of one topic: message n has number and packet id n modulo CYCLE.

    They are encoded in advance, a whole cycle twice. Where that is too much memory, there are only as many as were ever asked
    for at once, and each call numbers them anew.
    """

    def __init__(self, topic: str, size: int, version: int = V311, *, ahead: bool = True) -> None:
        """``size`` is the length of the payload in bytes, at least 2; ``ahead``: encode a cycle now."""
        properties = b"\0" if version == V5 else b""
        payload = bytes(2) + bytes(32 + place % 95 for place in range(size - 2))
        self._frame = _frame(PUBLISH | 2, _string(topic) + bytes(2) + properties + payload)
        self._stride = len(self._frame)
        self._number = self._stride - size
        self._identifier = self._number - len(properties) - 2
        self._rows = bytearray()
        self._ahead = ahead
        if ahead:
            self._rows = bytearray(self._frame * (2 * CYCLE))
            self._numbered(0, 2 * CYCLE)

    def frames(self, start: int, count: int) -> memoryview:
        """The frames of messages ``start`` to ``start + count - 1``; count is at most CYCLE. The next call may change them."""
        row, stride = start % CYCLE, self._stride
        if self._ahead:
            return memoryview(self._rows)[row * stride : (row + count) * stride]
        if len(self._rows) < count * stride:
            self._rows = bytearray(self._frame * count)
        self._numbered(row, count)
        return memoryview(self._rows)[: count * stride]

    def _numbered(self, row: int, count: int) -> None:
        """Write the columns of the first ``count`` rows, for messages from ``row`` on."""
        columns = (_NUMBER_HIGH, _NUMBER_LOW, _ID_HIGH, _ID_LOW)
        places = (self._number, self._number + 1, self._identifier, self._identifier + 1)
        for place, column in zip(places, columns, strict=True):
            self._rows[place : count * self._stride : self._stride] = column[row : row + count]


def runs(buffer: bytearray, end: int) -> tuple[list[Run], int]:
    """The whole frames in ``buffer[:end]`` as runs, and where the first unfinished frame begins.

    A row belongs to the run while its fixed header equals the first row's: then it is as long, and the next one
    begins one stride further.
    """
    found: list[Run] = []
    at = 0
    while end - at >= 2:
        first, length, head = buffer[at], buffer[at + 1], 2
        if length & 128:
            length, head = _long_length(buffer, at, end)
        stride = head + length
        count = (end - at) // stride
        if count == 0 or head == 0:
            break
        if count > 1:
            stop = at + count * stride
            for place in range(at, at + head):
                column = buffer[place:stop:stride]
                count = min(count, len(column) - len(column.lstrip(column[:1])))
        found.append((first, at, head, stride, count))
        at += count * stride
    return found, at


def frame_length(buffer: bytearray, at: int, end: int) -> int:
    """How long the frame is that begins ``at``, as far as ``buffer[:end]`` says; 0 where it does not say yet."""
    if end - at < 2:
        return 0
    length, head = (buffer[at + 1], 2) if buffer[at + 1] < 128 else _long_length(buffer, at, end)
    return head + length if head else 0


def _long_length(buffer: bytearray, at: int, end: int) -> tuple[int, int]:
    """A remaining length above 127 and the length of its fixed header; the latter is 0 while bytes are missing."""
    length = 0
    for place in range(4):
        if at + 1 + place >= end:
            return 1, 0
        byte = buffer[at + 1 + place]
        length |= (byte & 127) << (7 * place)
        if byte < 128:
            return length, place + 2
    raise ValueError("remaining length of more than four bytes")


def pubacks(buffer: bytearray, run: Run) -> bytearray:
    """The PUBACKs for a run of QoS 1 PUBLISH frames, the same bytes in both versions."""
    _, at, head, stride, count = run
    identifier = at + head + 2 + int.from_bytes(buffer[at + head : at + head + 2], "big")
    stop = at + count * stride
    acks = bytearray(b"\x40\x02\0\0" * count)
    acks[2::4] = buffer[identifier:stop:stride]
    acks[3::4] = buffer[identifier + 1 : stop : stride]
    return acks


def misordered(buffer: bytearray, run: Run, size: int, expected: int) -> tuple[int, int]:
    """How many rows of a run of PUBLISH frames do not follow the one before, and the number to expect next.

    ``expected`` is the number of the first row, modulo CYCLE; -1 accepts any. ``size`` is the payload's length.
    """
    _, at, _, stride, count = run
    number, stop = at + stride - size, at + count * stride
    high, low = buffer[number:stop:stride], buffer[number + 1 : stop : stride]
    following = (expected + count) % CYCLE
    if count <= CYCLE and expected >= 0:
        rows = slice(expected, expected + count)
        if high == _NUMBER_HIGH[rows] and low == _NUMBER_LOW[rows]:
            return 0, following
    wrong = 0
    for one, other in zip(high, low, strict=True):
        value = one << 8 | other
        wrong += expected not in (-1, value)
        expected = (value + 1) % CYCLE
    return wrong, expected


def refusals(buffer: bytearray, run: Run) -> int:
    """How many PUBACKs of a run carry a version 5 reason code that refuses."""
    _, at, head, stride, count = run
    if stride < head + 3:
        return 0
    return sum(reason >= 128 for reason in buffer[at + head + 2 : at + count * stride : stride])
