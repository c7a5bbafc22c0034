"""Every byte case: valid ones both ways, hostile ones with the code that they earn."""

from __future__ import annotations

import pytest

from broker.packets.codes import PacketType, ReasonCode
from broker.packets.decoder import Decoder
from broker.packets.encoder import encode
from broker.packets.model import Connect, PingReq, PingResp
from tests.packets.cases import (
    HOSTILE,
    HOSTILE_CONNECT,
    HOSTILE_SERVER,
    OPENING,
    VALID,
    VALID_CONNECT,
    Hostile,
    Valid,
    packet,
    wire,
)


def reader(role: str, version: int) -> Decoder:
    """A decoder that has seen the connection open."""
    if role == "client":
        return Decoder("client", version=version)
    decoder = Decoder("server")
    decoder.feed(OPENING[version])
    assert decoder.version == version
    return decoder


def named(cases: list[Valid] | list[Hostile]) -> list[object]:
    return [pytest.param(case, id=f"{case.version}: {case.name}") for case in cases]


@pytest.mark.parametrize("case", named(VALID_CONNECT))
def test_connect_both_ways(case: Valid) -> None:
    decoder = Decoder("server")
    assert decoder.feed(case.data) == [case.packet]
    assert decoder.error is None
    assert decoder.version == case.version
    assert encode(case.packet, case.version).hex(" ") == case.data.hex(" ")


@pytest.mark.parametrize("case", named(VALID))
def test_valid_packet_both_ways(case: Valid) -> None:
    decoder = reader(case.role, case.version)
    assert decoder.feed(case.data) == [case.packet]
    assert decoder.error is None
    encoded = encode(case.packet, case.version)
    if case.longer:
        assert reader(case.role, case.version).feed(encoded) == [case.packet]
        assert len(encoded) <= len(case.data)
    else:
        assert encoded.hex(" ") == case.data.hex(" ")


@pytest.mark.parametrize("kind", PacketType)
def test_the_table_has_each_packet_with_and_without_properties(kind: PacketType) -> None:
    mine = [case for case in VALID_CONNECT + VALID if case.packet.type is kind]
    assert any(case.version == 4 for case in mine) is (kind is not PacketType.AUTH)
    has = {bool(getattr(case.packet, "properties", None)) for case in mine if case.version == 5}
    assert has == ({False} if kind in (PacketType.PINGREQ, PacketType.PINGRESP) else {True, False})


@pytest.mark.parametrize("case", named(HOSTILE_CONNECT + HOSTILE + HOSTILE_SERVER))
def test_hostile_packet_is_refused_with_its_code(case: Hostile) -> None:
    decoder = reader(case.role, case.version)
    assert decoder.feed(case.data) == []
    assert decoder.error is not None
    assert decoder.error.code is case.code
    assert decoder.error.text == decoder.error.text.strip()
    assert decoder.error.text.isascii()


@pytest.mark.parametrize("case", named(HOSTILE + HOSTILE_SERVER))
def test_what_stands_before_a_violation_is_delivered_and_nothing_behind_it(case: Hostile) -> None:
    good = wire("d0 00") if case.role == "client" else wire("c0 00")
    whole = reader(case.role, case.version)
    ping = PingResp() if case.role == "client" else PingReq()
    assert whole.feed(good + good + case.data + good) == [ping, ping]
    assert whole.error is not None
    assert whole.feed(good) == []

    bytewise = reader(case.role, case.version)
    stream = good + case.data + good
    assert [found for at in range(len(stream)) for found in bytewise.feed(stream[at : at + 1])] == [ping]
    assert bytewise.error is not None
    assert bytewise.error.code is whole.error.code


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (packet(0x10, "0004'MQTT' 06 02 003c 00 0001'c'"), 4),
        (packet(0x10, "0004'MQTT' 03 02 003c 0001'c'"), 4),
        (packet(0x10, "0004'MQTT' 00 02 003c 0001'c'"), 4),
        (packet(0x10, "0004'MQTT' 04 03 003c 0001'c'"), 4),
        (packet(0x10, "0004'MQTT' 05 03 003c 00 0001'c'"), 5),
        (wire("10 00"), 0),
        (wire("c0 00"), 0),
    ],
)
def test_a_refused_connect_leaves_the_version_to_answer_in(data: bytes, version: int) -> None:
    decoder = Decoder("server")
    assert decoder.feed(data) == []
    assert decoder.error is not None
    assert decoder.version == version


def test_connect_and_what_follows_in_one_chunk() -> None:
    decoder = Decoder("server")
    first, second = decoder.feed(OPENING[5] + packet(0x30, "0001'a' 00 'x'"))
    assert isinstance(first, Connect)
    assert second.type.name == "PUBLISH"
    assert decoder.error is None


def test_a_client_without_a_version_cannot_read() -> None:
    decoder = Decoder("client")
    assert decoder.feed(wire("20 02 00 00")) == []
    assert decoder.error is not None
    assert decoder.error.code is ReasonCode.PROTOCOL_ERROR
