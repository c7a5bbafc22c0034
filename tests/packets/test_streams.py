"""What holds for every stream: any split gives the same packets, every packet survives the round trip, nothing raises."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import Packet, PubAck, PubAcks, Publish, each
from broker.packets.properties import Property
from tests.packets import strategies as own
from tests.packets.cases import HOSTILE, OPENING, VALID, VALID_CONNECT

versions = st.sampled_from((3, 4, 5))


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    return [stream[start:stop] for start, stop in pairwise([0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)])]


def same(found: list[Packet], sent: list[Packet]) -> bool:
    """Equal, and with the properties in the same order, which dict equality does not see."""
    return found == sent and [repr(one) for one in found] == [repr(one) for one in sent]


@given(st.data(), versions, st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_split_of_a_clients_stream_gives_its_packets(data: st.DataObject, version: int, cuts: list[int]) -> None:
    sent = [data.draw(own.connects(version)), *data.draw(st.lists(own.from_client(version), max_size=8))]
    stream = b"".join(encode(one, version) for one in sent)
    decoder = Decoder("server")
    found = list(each(packet for piece in split(stream, cuts) for packet in decoder.feed(piece)))
    assert decoder.error is None
    assert same(found, sent)
    assert decoder.version == version
    assert decoder.buffered == 0


@given(st.data(), versions, st.lists(st.integers(0, 1 << 16), max_size=12), st.integers(1, 40))
def test_any_parts_of_a_clients_stream_give_its_packets(
    data: st.DataObject, version: int, cuts: list[int], enough: int
) -> None:
    """What was read is looked at in parts, each from where the last one ended: none begins a packet behind ``enough`` bytes."""
    sent = [data.draw(own.connects(version)), *data.draw(st.lists(own.from_client(version), max_size=8))]
    stream = b"".join(encode(one, version) for one in sent)
    decoder = Decoder("server")
    found: list[Packet] = []
    for piece in split(stream, cuts):
        start = 0
        while start < len(piece):
            kept = decoder.buffered
            part = list(each(decoder.feed(piece, start, enough)))
            assert sum(len(encode(one, version)) for one in part[:-1]) < kept + enough
            assert start < decoder.reached
            assert decoder.reached == len(piece) or not decoder.buffered
            found += part
            start = decoder.reached
    assert decoder.error is None
    assert same(found, sent)
    assert decoder.buffered == 0


def test_a_clients_pubacks_that_come_together_are_one() -> None:
    """But for those with a reason. What is no identifier is a violation behind them."""
    acks = [PubAck(packet_id) for packet_id in (7, 65535, 256, 7)]
    stream = b"".join(encode(ack, 5) for ack in acks)
    decoder, server = Decoder("server", version=5), Decoder("client", version=5)
    (run,) = decoder.feed(stream)
    assert isinstance(run, PubAcks)
    assert (list(run), len(run)) == (acks, 4)
    refused = PubAck(9, 0x80)
    assert decoder.feed(encode(refused, 5) + stream[:4] + encode(refused, 5) + stream[:3]) == [refused, acks[0], refused]
    assert list(each(decoder.feed(stream[3:] + b"\x40\x02\0\0" + stream))) == acks
    assert decoder.error is not None
    assert server.feed(stream) == acks


def test_a_puback_whose_length_takes_more_bytes_than_it_needs_is_no_part_of_a_run() -> None:
    """3.1.1 has no rule against it: the frames of a run are of four bytes each."""
    for padded in (b"\x40\x82\0\0\x05", b"\x40\x82\x80\0\0\x05"):
        for before in (b"", b"\x40\x02\0\x07"):
            decoder = Decoder("server", version=4)
            found = list(each(decoder.feed(before + padded + b"\x40\x02\x02\0\x40\x02\0\x06")))
            assert found == [PubAck(packet_id) for packet_id in [7] * bool(before) + [5, 512, 6]]
            assert decoder.error is None


def test_messages_that_come_together_have_each_its_topic() -> None:
    """Also where it is the one before, or where an alias stands between."""
    topics = ["a", "a", "b", "", "b", "a", "", "", "a"]
    sent: list[Packet] = [Publish(topic, b"x", properties={} if topic else {Property.TOPIC_ALIAS: 1}) for topic in topics]
    decoder = Decoder("server", version=5)
    assert same(decoder.feed(b"".join(encode(one, 5) for one in sent)), sent)
    for before in ([], [Publish("a", b"x")]):
        nameless = Decoder("server", version=4)
        assert nameless.feed(b"".join(encode(one, 4) for one in [*before, Publish("", b"x")])) == before
        assert nameless.error is not None


@given(st.data(), versions, st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_split_of_a_servers_stream_gives_its_packets(data: st.DataObject, version: int, cuts: list[int]) -> None:
    sent = data.draw(st.lists(own.from_server(version), min_size=1, max_size=8))
    stream = b"".join(encode(one, version) for one in sent)
    decoder = Decoder("client", version=version)
    found = [packet for piece in split(stream, cuts) for packet in decoder.feed(piece)]
    assert decoder.error is None
    assert same(found, sent)
    assert decoder.buffered == 0


@given(st.sampled_from(HOSTILE), st.lists(st.integers(0, 1 << 16), max_size=6), st.binary(max_size=20))
def test_any_split_of_a_hostile_stream_ends_in_the_same_violation(case: object, cuts: list[int], after: bytes) -> None:
    stream = OPENING[case.version] + b"\xc0\x00" + case.data + after  # type: ignore[attr-defined]
    decoder = Decoder("server")
    found = [packet for piece in split(stream, cuts) for packet in decoder.feed(piece)]
    assert [packet.type.name for packet in found] == ["CONNECT", "PINGREQ"]
    assert decoder.error is not None
    assert decoder.error.code is case.code  # type: ignore[attr-defined]


def _survives(decoder: Decoder, pieces: list[bytes]) -> None:
    for piece in pieces:
        was = decoder.error
        found = decoder.feed(piece)
        assert was is None or (found == [] and decoder.error is was)


@given(versions, st.lists(st.binary(max_size=60), max_size=4))
def test_random_bytes_of_a_client_never_raise(version: int, pieces: list[bytes]) -> None:
    _survives(Decoder("server"), pieces)
    _survives(Decoder("server"), [OPENING[version], *pieces])
    _survives(Decoder("client", version=version), pieces)


_samples = [case for case in VALID if case.role == "server"]


@given(
    st.sampled_from(_samples) | st.sampled_from(VALID_CONNECT),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_mutated_packet_never_raises(case: object, changes: list[tuple[int, int]]) -> None:
    """Closer to the rules than random bytes: most bytes of a valid packet stay."""
    data = bytearray(case.data)  # type: ignore[attr-defined]
    for place, value in changes:
        data[place % len(data)] = value
    opening = b"" if case in VALID_CONNECT else OPENING[case.version]  # type: ignore[attr-defined]
    _survives(Decoder("server"), [opening, bytes(data)])
