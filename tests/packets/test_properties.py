"""The property and reason code tables, against paho's; values and their limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode as PahoReasonCode

from broker.packets import bodies
from broker.packets import properties as module
from broker.packets.codes import MalformedPacket, PacketType, ProtocolError, ReasonCode, connect_return_code
from broker.packets.model import Publish
from broker.packets.properties import (
    BELONGS,
    EMPTY,
    WILL,
    Property,
    decode_properties,
    encode_properties,
    encode_property_body,
)
from tests.packets import strategies as own

PAHO = PahoProperties(PacketTypes.CONNECT)
TYPES = {
    "Byte": module._BYTE,
    "Two Byte Integer": module._U16,
    "Four Byte Integer": module._U32,
    "Variable Byte Integer": module._VARINT,
    "Binary Data": module._BINARY,
    "UTF-8 Encoded String": module._STRING,
    "UTF-8 String Pair": module._PAIR,
}
PAHO_NAMES = {number: name.replace(" ", "") for name, number in PAHO.names.items()}


def paho_type(where: int) -> int:
    return PacketTypes.WILLMESSAGE if where == WILL else where


def test_identifiers_types_and_places_are_pahos() -> None:
    assert {int(known) for known in Property} == set(PAHO.properties)
    for known in Property:
        kind, packets = PAHO.properties[known]
        assert module._KINDS[known] == TYPES[PAHO.types[kind]], known
        assert {paho_type(where) for where, legal in BELONGS.items() if known in legal} == set(packets), known


@given(st.data(), st.sampled_from(sorted(BELONGS)))
def test_pahos_bytes_are_read_as_what_it_meant(data: st.DataObject, where: int) -> None:
    sent = data.draw(own.properties(where, "client"))
    # paho writes a text's and a packet size's extremes differently from what it reads; both are legal on the wire.
    if sent.get(Property.MAXIMUM_PACKET_SIZE, 0) > 0x0FFFFFFF:
        sent[Property.MAXIMUM_PACKET_SIZE] = 0x0FFFFFFF
    theirs = PahoProperties(paho_type(where))
    for known, value in sent.items():
        setattr(theirs, PAHO_NAMES[known], value)
    packed = theirs.pack()
    assert decode_properties(packed, 0, len(packed), where) == (sent, len(packed))


@given(st.data(), st.sampled_from(sorted(BELONGS)))
def test_paho_reads_what_is_written(data: st.DataObject, where: int) -> None:
    sent = data.draw(own.properties(where, "client"))
    if sent.get(Property.MAXIMUM_PACKET_SIZE, 0) > 0x0FFFFFFF:
        sent[Property.MAXIMUM_PACKET_SIZE] = 0x0FFFFFFF
    theirs = PahoProperties(paho_type(where))
    packed = encode_properties(sent)
    assert theirs.unpack(packed)[1] == len(packed)
    found: dict[int, Any] = {
        known: getattr(theirs, PAHO_NAMES[known]) for known in Property if hasattr(theirs, PAHO_NAMES[known])
    }
    if where == PacketType.SUBSCRIBE and Property.SUBSCRIPTION_IDENTIFIER in found:
        (found[Property.SUBSCRIPTION_IDENTIFIER],) = found[Property.SUBSCRIPTION_IDENTIFIER]
    assert found == sent


@given(st.data(), st.sampled_from(sorted(BELONGS)), st.binary(max_size=5), st.binary(max_size=5))
def test_properties_are_read_in_place(data: st.DataObject, where: int, before: bytes, after: bytes) -> None:
    sent = data.draw(own.properties(where, "client"))
    written = encode_properties(sent)
    stop = len(before) + len(written)
    found, at = decode_properties(before + written + after, len(before), stop, where)
    assert (list(found.items()), at) == (list(sent.items()), stop)


@pytest.mark.parametrize("where", sorted(BELONGS))
@pytest.mark.parametrize("known", list(Property))
def test_a_property_belongs_or_is_malformed(where: int, known: Property) -> None:
    value = {module._STRING: "m", module._BINARY: b"", module._PAIR: [("k", "v")]}.get(module._KINDS[known], 1)
    written = encode_properties({Property.AUTHENTICATION_METHOD: "m", known: value} if known == 22 else {known: value})
    if known in BELONGS[where]:
        assert known in decode_properties(written, 0, len(written), where)[0]
    else:
        with pytest.raises(MalformedPacket, match="does not belong"):
            decode_properties(written, 0, len(written), where)


@pytest.mark.parametrize("where", sorted(BELONGS))
def test_only_user_properties_and_a_publishs_identifiers_repeat(where: int) -> None:
    for known in BELONGS[where]:
        value = {module._STRING: "m", module._BINARY: b"", module._PAIR: [("k", "v")]}.get(module._KINDS[known], 1)
        body = encode_property_body({known: value}) * 2
        twice = bytes((len(body),)) + body
        if known is Property.USER_PROPERTY or (known is Property.SUBSCRIPTION_IDENTIFIER and where == PacketType.PUBLISH):
            assert len(decode_properties(twice, 0, len(twice), where)[0][known]) == 2
        else:
            with pytest.raises(ProtocolError, match="twice"):
                decode_properties(twice, 0, len(twice), where)


def test_reason_codes_are_pahos() -> None:
    theirs = PahoReasonCode(PacketTypes.CONNACK, "Success").names
    assert {int(code) for code in ReasonCode} == set(theirs)

    def allowed(kind: int) -> set[int]:
        return {code for code, uses in theirs.items() for packets in uses.values() if kind in packets}

    assert allowed(PacketTypes.PUBACK) == bodies._RECEIVED
    assert allowed(PacketTypes.PUBREC) == bodies._RECEIVED
    assert allowed(PacketTypes.PUBREL) == bodies._RELEASED
    assert allowed(PacketTypes.PUBCOMP) == bodies._RELEASED
    assert allowed(PacketTypes.SUBACK) == bodies._SUBSCRIBED
    assert allowed(PacketTypes.UNSUBACK) == bodies._UNSUBSCRIBED
    # Table 3-1 has 0x99, for the payload of a will; paho has forgotten it.
    assert allowed(PacketTypes.CONNACK) | {ReasonCode.PAYLOAD_FORMAT_INVALID} == bodies._REFUSALS | {0}
    assert allowed(PacketTypes.DISCONNECT) == bodies._CLIENT_LEAVES | bodies._SERVER_LEAVES
    assert allowed(PacketTypes.AUTH) == bodies._CLIENT_AUTH | bodies._SERVER_AUTH


def test_the_return_codes_of_3_1_1() -> None:
    assert [connect_return_code(code) for code in range(6)] == list(range(6))
    assert connect_return_code(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION) == 1
    assert connect_return_code(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID) == 2
    assert connect_return_code(ReasonCode.SERVER_UNAVAILABLE) == 3
    assert connect_return_code(ReasonCode.BAD_USER_NAME_OR_PASSWORD) == 4
    assert connect_return_code(ReasonCode.NOT_AUTHORIZED) == 5
    assert all(1 <= connect_return_code(code) <= 5 for code in ReasonCode if code >= 0x80)


def test_nobody_can_fill_the_shared_empty_properties() -> None:
    packet = Publish("a", b"")
    assert packet.properties is EMPTY
    with pytest.raises(TypeError):
        packet.properties[Property.TOPIC_ALIAS] = 1
    with pytest.raises(TypeError):
        packet.properties.update({35: 1})
    with pytest.raises(TypeError):
        packet.properties.setdefault(35, 1)
    with pytest.raises(TypeError):
        packet.properties |= {35: 1}
    assert EMPTY == {}
    assert decode_properties(b"\0", 0, 1, PacketType.PUBLISH)[0] is EMPTY


@pytest.mark.parametrize(
    "bad",
    [
        {Property.TOPIC_ALIAS: 0x10000},
        {Property.MESSAGE_EXPIRY: -1},
        {Property.PAYLOAD_FORMAT: 256},
        {Property.SUBSCRIPTION_IDENTIFIER: 0x10000000},
        {Property.CONTENT_TYPE: "x" * 0x10000},
        {Property.CORRELATION_DATA: b"x" * 0x10000},
        {127: 1},
    ],
)
def test_a_value_that_does_not_fit_is_not_written(bad: dict[int, Any]) -> None:
    with pytest.raises(ValueError):
        encode_properties(bad)
