"""The size limit, what is buffered, and the shared table of topics."""

from __future__ import annotations

import itertools
import sys

import pytest

from broker.packets import decoder as module
from broker.packets.codes import PacketTooLarge, ReasonCode
from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import Publish
from tests.packets.cases import OPENING, packet


def open_decoder(limit: int) -> Decoder:
    decoder = Decoder("server", max_packet_size=limit)
    decoder.feed(OPENING[4])
    return decoder


def test_the_limit_counts_the_whole_packet() -> None:
    frame = encode(Publish("a", b"x" * 200), 4)
    assert len(open_decoder(len(frame)).feed(frame)) == 1
    refused = open_decoder(len(frame) - 1)
    assert refused.feed(frame) == []
    assert isinstance(refused.error, PacketTooLarge)
    assert refused.error.code is ReasonCode.PACKET_TOO_LARGE


@pytest.mark.parametrize("header", [b"\x30\x80\x80\x80\x01", b"\x30\xff\xff\xff\x7f", b"\x10\xe9\x07"])
def test_a_packet_too_large_is_refused_from_its_header_alone(header: bytes) -> None:
    decoder = Decoder("server", max_packet_size=1000)
    for at in range(len(header) - 1):
        assert decoder.feed(header[at : at + 1]) == []
        assert decoder.error is None
    decoder.feed(header[-1:])
    assert isinstance(decoder.error, PacketTooLarge)


def test_the_limit_may_change_between_packets() -> None:
    decoder = open_decoder(1000)
    frame = encode(Publish("a", b"x" * 100), 4)
    assert len(decoder.feed(frame)) == 1
    decoder.max_packet_size = 100
    assert decoder.feed(frame) == []
    assert isinstance(decoder.error, PacketTooLarge)


def test_no_more_than_one_packet_is_buffered() -> None:
    frame = encode(Publish("a", b"x" * 5000), 4)
    decoder = open_decoder(len(frame))
    stream = frame * 20
    received = 0
    for at in range(0, len(stream), 777):
        received += len(decoder.feed(stream[at : at + 777]))
        assert decoder.buffered < len(frame)
    assert received == 20
    assert decoder.buffered == 0


def test_a_large_packet_in_tiny_pieces_costs_its_size_once() -> None:
    frame = encode(Publish("a", b"x" * 300_000), 4)
    decoder = open_decoder(len(frame))
    for at in range(0, len(frame) - 2, 2):
        assert decoder.feed(frame[at : at + 2]) == []
    pieces = [decoder._partial, *(decoder._more or ())]
    held = sum(map(sys.getsizeof, [pieces, *pieces]))
    assert decoder.buffered <= len(frame)
    assert held < 1.25 * len(frame)  # a list of pieces would hold about 20 times as much
    (found,) = decoder.feed(frame[decoder.buffered :])
    assert isinstance(found, Publish)
    assert len(found.payload) == 300_000


def test_pieces_of_any_size_come_together_in_their_order() -> None:
    """Large ones are kept apart until all are there, small ones are not."""
    payload = bytes(range(256)) * 400
    frame = encode(Publish("a", payload, 1, packet_id=7), 4)
    decoder = open_decoder(len(frame))
    found, at = [], 0
    for size in itertools.cycle((1, 5000, 3, 2, 4096, 20_000, 4095, 9000)):
        found += decoder.feed(frame[at : at + size])
        at += size
        if at >= len(frame):
            break
        assert decoder.buffered == at
    assert [packet.payload for packet in found if isinstance(packet, Publish)] == [payload]
    assert decoder.buffered == 0


@pytest.mark.inside
def test_the_table_of_topics_is_bounded_and_shares_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN_TOPICS_MAX", 10)
    first, second = open_decoder(10_000), open_decoder(10_000)
    for number in range(100):
        first.feed(packet(0x30, f"0003'{number:03}'"))
        assert len(module._known_topics) <= 10
    (one,), (two,) = first.feed(packet(0x30, "0003'a/b'")), second.feed(packet(0x30, "0003'a/b'"))
    assert isinstance(one, Publish)
    assert isinstance(two, Publish)
    assert one.topic is two.topic


def test_a_long_topic_is_not_kept() -> None:
    topic = "t" * 1000
    assert len(open_decoder(10_000).feed(encode(Publish(topic, b""), 4))) == 1
    assert topic.encode() not in module._known_topics


def test_a_refused_topic_is_refused_again() -> None:
    for _ in range(2):
        decoder = open_decoder(1000)
        assert decoder.feed(packet(0x30, "0003'a/#'")) == []
        assert decoder.error is not None
