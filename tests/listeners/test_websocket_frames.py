"""The frames of a WebSocket, beside a library that is slower: the same comes out, however the bytes are split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import OP_BINARY, OP_CLOSE, OP_CONT, OP_PING, OP_PONG, Frame, Opcode
from websockets.protocol import Protocol, Side

from broker.net.websocket_frames import TOO_LARGE, Frames, head

LIMIT = 300
FAULTS = (1002, 1007)

Wire = tuple[bytes, bytes, list[bytes]]
"""What was carried, the Close that answers, and the pongs."""


@st.composite
def frame(draw: st.DrawFn) -> bytes:
    """Mostly as it may be."""
    opcode = draw(st.sampled_from([OP_BINARY, OP_BINARY, OP_BINARY, OP_CONT, OP_CONT, OP_PING, OP_PONG, OP_CLOSE]))
    sizes = (0, 1, 2, 5, 125) if opcode >= OP_CLOSE else (0, 1, 3, 125, 126, 127, 200)
    data = draw(st.sampled_from(sizes).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
    if opcode == OP_CLOSE and draw(st.booleans()):
        data = draw(st.sampled_from([b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0\xff", b"\x03\xee"]))
    fin = opcode >= OP_CLOSE or draw(st.booleans())
    encoded = bytearray(Frame(Opcode(opcode), data, fin).serialize(mask=True))
    if len(data) < 126 and draw(st.integers(0, 19)) == 0:  # a reserved bit, no end, or an opcode that there is not
        encoded[0] ^= draw(st.sampled_from([0x10, 0x20, 0x40, 0x80, 0x04]))
    return bytes(encoded)


def of_library(data: bytes) -> Wire:
    protocol = Protocol(Side.SERVER, max_size=None)  # it counts a ping as a part of the message that it comes in
    protocol.receive_data(data)
    carried = b"".join(
        bytes(event.data) for event in protocol.events_received() if isinstance(event, Frame) and event.opcode <= OP_BINARY
    )
    sent = [bytes(one) for one in protocol.data_to_send() if one]
    closes = [one for one in sent if one[0] & 0x0F == OP_CLOSE]
    return carried, b"".join(closes), [one for one in sent if one[0] & 0x0F == OP_PONG]


def of_ours(pieces: list[bytes]) -> Wire:
    frames, carried, pongs = Frames(1 << 20), b"", []
    for piece in pieces:
        if piece and not frames.over:
            carried += frames.feed(piece)
            pongs += frames.pongs or []
            frames.pongs = None
    return carried, frames.answer, pongs


def _code(close: bytes) -> int:
    return int.from_bytes(close[2:4], "big")


@given(st.lists(frame(), max_size=8), st.lists(st.integers(0, 1000), max_size=6))
def test_the_same_as_a_library(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    at = sorted({cut % (len(data) + 1) for cut in cuts})
    ours = of_ours([data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)])
    theirs = of_library(data)
    if theirs[1] and _code(theirs[1]) in FAULTS:  # in words of its own; and a frame may break several rules
        assert _code(ours[1]) in FAULTS
        theirs = theirs[0], ours[1], theirs[2]
    assert ours == theirs


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 1 << 20])
def test_our_heads_are_a_library_s(length: int) -> None:
    assert head(length) + bytes(length) == Frame(OP_BINARY, bytes(length)).serialize(mask=False)


def test_a_large_message_in_small_frames_is_too_large() -> None:
    frames = Frames(LIMIT)
    small = Frame(OP_CONT, b"x" * 100, fin=False).serialize(mask=True)
    carried = frames.feed(Frame(OP_BINARY, b"x" * 100, fin=False).serialize(mask=True) + small * 3)
    assert carried == b"x" * 300
    assert frames.fault is not None
    assert frames.fault.code == TOO_LARGE


def test_each_message_has_all_the_room() -> None:
    frames = Frames(LIMIT)
    parts = [Frame(OP_BINARY, b"x" * 200, fin=False), Frame(OP_CONT, b"x" * 100)]
    for _ in range(3):
        assert frames.feed(b"".join(part.serialize(mask=True) for part in parts)) == b"x" * LIMIT
    assert not frames.over


def test_a_frame_is_refused_by_its_head() -> None:
    frames = Frames(LIMIT)
    frames.feed(b"\x82\xfe\x01")
    assert not frames.over
    frames.feed(b"\x2d")  # 301 bytes; not even the mask has come
    assert frames.over
    assert frames.answer[2:4] == (1009).to_bytes(2, "big")


def test_nothing_behind_a_close_counts() -> None:
    frames = Frames(LIMIT)
    before, behind = (Frame(OP_BINARY, data).serialize(mask=True) for data in (b"before", b"behind"))
    close, ping = Frame(OP_CLOSE, b"\x03\xe8").serialize(mask=True), Frame(OP_PING, b"?").serialize(mask=True)
    assert frames.feed(before + close + behind + ping) == b"before"
    assert (frames.over, frames.fault, frames.pongs) == (True, None, None)


def test_a_ping_within_a_message_takes_nothing_of_its_room() -> None:
    frames, ping = Frames(LIMIT), Frame(OP_PING, b"p" * 125)
    begun = Frame(OP_BINARY, b"x" * LIMIT, fin=False).serialize(mask=True)
    ended = Frame(OP_CONT, b"").serialize(mask=True)
    assert frames.feed(begun + ping.serialize(mask=True) + ended) == b"x" * LIMIT
    assert (frames.over, frames.pongs) == (False, [Frame(OP_PONG, ping.data).serialize(mask=False)])
