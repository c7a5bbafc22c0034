"""Frames that are shared between receivers, the quick forms, and what a version leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.packets.codes import PacketType, ReasonCode
from broker.packets.encoder import PINGREQ, PINGRESP, ack_frame, encode, publish_parts
from broker.packets.model import (
    Auth,
    ConnAck,
    Disconnect,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    UnsubAck,
)
from broker.packets.properties import Properties, Property, encode_property_body
from tests.packets import strategies as own
from tests.packets.cases import wire


@given(own.publishes(4, "client") | own.publishes(5, "client"), st.sampled_from((4, 5)))
def test_parts_with_a_packet_id_between_them_are_the_frame(packet: Publish, version: int) -> None:
    flags = packet.dup << 3 | packet.qos << 1 | packet.retain
    head, tail = publish_parts(
        packet.topic, packet.payload, flags, encode_property_body(packet.properties) if version == 5 else None
    )
    between = packet.packet_id.to_bytes(2, "big") if packet.qos else b""
    assert head + between + tail == encode(packet, version)


@pytest.mark.parametrize(
    "size", [0, 120, 121, 122, 123, 124, 125, 126, 127, 16376, 16377, 16378, 16379, 16380, 2097145, 2097146]
)
@pytest.mark.parametrize("flags", [0, 2])
@pytest.mark.parametrize("properties", [None, b"", bytes((Property.TOPIC_ALIAS, 0, 1)), b"\x26\0\1k\0\x80" + b"v" * 128])
def test_every_size_of_remaining_length(size: int, flags: int, properties: bytes | None) -> None:
    head, tail = publish_parts("a", b"x" * size, flags, properties)
    frame = head + (b"\0\1" if flags else b"") + tail
    length, shift, at = 0, 0, 1
    while True:
        length |= (frame[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if frame[at - 1] < 128:
            break
    assert len(frame) - at == length
    assert frame[at - 1] != 0 or at == 2  # as short as can be


def test_quick_acks_are_the_encoders() -> None:
    for version in (3, 4, 5):
        for kind in (PubAck, PubRec, PubRel, PubComp):
            assert ack_frame(kind.type, 0xABCD) == encode(kind(0xABCD), version)
        assert encode(PingReq(), version) == PINGREQ == wire("c000")
        assert encode(PingResp(), version) == PINGRESP == wire("d000")
    assert ack_frame(PacketType.PUBREL, 1) == wire("62 02 0001")


def test_3_1_1_drops_what_it_has_no_word_for() -> None:
    why: Properties = {Property.REASON_STRING: "why"}
    assert encode(PubAck(1, ReasonCode.NOT_AUTHORIZED, why), 4) == wire("40 02 0001")
    assert encode(SubAck(1, [0, 1, 2, ReasonCode.NOT_AUTHORIZED, ReasonCode.QUOTA_EXCEEDED], why), 4) == wire(
        "90 07 0001 00 01 02 80 80"
    )
    assert encode(UnsubAck(1, [0, ReasonCode.NO_SUBSCRIPTION_EXISTED], why), 4) == wire("b0 02 0001")
    assert encode(Disconnect(ReasonCode.SERVER_SHUTTING_DOWN, why), 4) == wire("e0 00")
    assert encode(Publish("a", b"x", properties={Property.CONTENT_TYPE: "t"}), 4) == wire("30 04 0001'a' 'x'")
    assert encode(ConnAck(False, ReasonCode.BAD_USER_NAME_OR_PASSWORD, why), 4) == wire("20 02 00 04")
    assert encode(ConnAck(False, ReasonCode.UNSUPPORTED_PROTOCOL_VERSION), 3) == wire("20 02 00 01")
    with pytest.raises(ValueError, match="AUTH"):
        encode(Auth(), 4)


@pytest.mark.parametrize("version", [4, 5])
def test_a_refusal_never_says_session_present(version: int) -> None:
    assert encode(ConnAck(True, ReasonCode.NOT_AUTHORIZED), version)[2] == 0  # [MQTT-3.2.2-4], [MQTT-3.2.2-6]
    assert encode(ConnAck(True, 0), version)[2] == 1


def test_a_topic_that_does_not_fit_is_not_written() -> None:
    with pytest.raises(ValueError, match="65538"):
        publish_parts("你" * 21846, b"", 0, None)
