"""Packets as bytes: what is valid both ways, and what a hostile peer may send, with the code that it earns.

Read by the codec's tests, and by the tests that send the same bytes through a real socket. `wire` spells bytes in hex and
quoted ASCII; `packet` puts a fixed header with the right remaining length in front. Numbers in brackets are rules of MQTT 5
where the case is version 5, else of 3.1.1.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from broker.packets.codes import ReasonCode as R
from broker.packets.model import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    Will,
)
from broker.packets.properties import Properties
from broker.packets.properties import Property as P


def wire(spelled: str) -> bytes:
    """``"0003 'a/b' 01"`` to bytes: hex pairs, and ASCII in single quotes."""
    parts = re.findall(r"'([^']*)'|([0-9a-fA-F]+)", spelled)
    return b"".join(text.encode() if text else bytes.fromhex(digits) for text, digits in parts)


def packet(first: int, body: str = "") -> bytes:
    """A fixed header and a body; bodies of up to 16,383 bytes."""
    data = wire(body)
    size = len(data)
    length = bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))
    return bytes((first,)) + length + data


class Valid(NamedTuple):
    """``data`` decodes to ``packet``; ``packet`` encodes to ``data`` unless ``longer``: there is a shorter form of it."""

    name: str
    version: int
    data: bytes
    packet: Packet
    role: str = "server"
    longer: bool = False


class Hostile(NamedTuple):
    """``data``, after a CONNECT of ``version`` (none where it is 0), is refused with ``code``."""

    name: str
    version: int
    data: bytes
    code: R
    role: str = "server"


OPENING: Final = {
    0: b"",
    3: packet(0x10, "0006 'MQIsdp' 03 02 003c 0001 'c'"),
    4: packet(0x10, "0004 'MQTT' 04 02 003c 0001 'c'"),
    5: packet(0x10, "0004 'MQTT' 05 02 003c 00 0001 'c'"),
}
"""The CONNECT that a hostile case of a version comes after."""

_M, _E = R.MALFORMED_PACKET, R.PROTOCOL_ERROR
_USER: Final[Properties] = {P.USER_PROPERTY: [("k", "v"), ("k", "w")]}
_USER_WIRE = "26 0001'k' 0001'v' 26 0001'k' 0001'w'"  # 14 bytes: 0e
_WHY: Final[Properties] = {P.REASON_STRING: "why"}

VALID_CONNECT: Final = [
    Valid("3.1", 3, OPENING[3], Connect("c", 3, True, 60)),
    Valid("plain", 4, OPENING[4], Connect("c", 4, True, 60)),
    Valid("durable", 4, packet(0x10, "0004'MQTT' 04 00 0000 0001'c'"), Connect("c", 4, False, 0)),
    Valid("no client id", 4, packet(0x10, "0004'MQTT' 04 02 0000 0000"), Connect("", 4, True, 0)),
    Valid(
        "all fields",
        4,
        packet(0x10, "0004'MQTT' 04 f6 ffff 0001'c' 0003'w/t' 0002'by' 0001'u' 0002 00ff"),
        Connect("c", 4, True, 65535, "u", b"\x00\xff", Will("w/t", b"by", 2, True)),
    ),
    Valid(
        "empty will, user name and password",
        4,
        packet(0x10, "0004'MQTT' 04 c6 0000 0001'c' 0001'w' 0000 0000 0000"),
        Connect("c", 4, True, 0, "", b"", Will("w", b"")),
    ),
    Valid(
        "user name without password", 4, packet(0x10, "0004'MQTT' 04 82 0000 0001'c' 0001'u'"), Connect("c", 4, username="u")
    ),
    Valid("5, plain", 5, OPENING[5], Connect("c", 5, True, 60)),
    Valid(
        "5, password alone", 5, packet(0x10, "0004'MQTT' 05 42 0000 00 0001'c' 0001'p'"), Connect("c", 5, True, 0, None, b"p")
    ),
    Valid(
        "5, all properties",
        5,
        packet(
            0x10,
            "0004'MQTT' 05 02 0000 2d 11 ffffffff 21 0001 27 00000001 22 ffff 19 01 17 00"
            f"{_USER_WIRE} 15 0002'me' 16 0003 000102 0001'c'",
        ),
        Connect(
            "c",
            5,
            properties={
                P.SESSION_EXPIRY: 0xFFFFFFFF,
                P.RECEIVE_MAXIMUM: 1,
                P.MAXIMUM_PACKET_SIZE: 1,
                P.TOPIC_ALIAS_MAXIMUM: 65535,
                P.REQUEST_RESPONSE_INFORMATION: 1,
                P.REQUEST_PROBLEM_INFORMATION: 0,
                **_USER,
                P.AUTHENTICATION_METHOD: "me",
                P.AUTHENTICATION_DATA: b"\0\1\2",
            },
        ),
    ),
    Valid(
        "5, will with all properties",
        5,
        packet(
            0x10,
            "0004'MQTT' 05 2e 0000 00 0001'c' 29 18 00000005 01 01 02 00000009 03 0001't' 08 0003'r/t' 09 0002 ff00"
            f"{_USER_WIRE} 0001'w' 0001'x'",
        ),
        Connect(
            "c",
            5,
            will=Will(
                "w",
                b"x",
                1,
                True,
                {
                    P.WILL_DELAY: 5,
                    P.PAYLOAD_FORMAT: 1,
                    P.MESSAGE_EXPIRY: 9,
                    P.CONTENT_TYPE: "t",
                    P.RESPONSE_TOPIC: "r/t",
                    P.CORRELATION_DATA: b"\xff\0",
                    **_USER,
                },
            ),
        ),
    ),
]

VALID: Final = [
    Valid("publish, QoS 0", 4, packet(0x30, "0003'a/b' 'hi'"), Publish("a/b", b"hi")),
    Valid("publish, empty payload, retain", 4, packet(0x31, "0003'a/b'"), Publish("a/b", b"", retain=True)),
    Valid("publish, QoS 1", 4, packet(0x32, "0003'a/b' 000a 'hi'"), Publish("a/b", b"hi", 1, packet_id=10)),
    Valid("publish, QoS 2, dup, retain", 4, packet(0x3D, "0001'a' ffff"), Publish("a", b"", 2, True, True, 65535)),
    Valid("publish, U+FEFF stays", 4, packet(0x30, "0006 efbbbf e4bd a0"), Publish("\ufeff你", b"")),  # [MQTT-1.5.3-3]
    Valid("publish, beyond the BMP", 4, packet(0x30, "0005 41 f0aa9b94"), Publish("A\U0002a6d4", b"")),
    Valid("publish, only slashes", 4, packet(0x30, "0002'//' 'x'"), Publish("//", b"x")),
    Valid("publish, 128 bytes of body", 4, b"\x30\x80\x01" + wire("0001'a'") + b"x" * 125, Publish("a", b"x" * 125)),
    Valid("publish, padded length", 4, wire("30 84 00 0001'a' 'x'"), Publish("a", b"x"), longer=True),
    Valid("5, publish, no properties", 5, packet(0x32, "0003'a/b' 000a 00 'hi'"), Publish("a/b", b"hi", 1, packet_id=10)),
    Valid("5, publish, alias alone", 5, packet(0x30, "0000 03 23 0001"), Publish("", b"", properties={P.TOPIC_ALIAS: 1})),
    Valid(
        "5, publish, all properties",
        5,
        packet(0x30, f"0001'a' 27 01 01 02 ffffffff 23 000a 08 0003'r/t' 09 0000 {_USER_WIRE} 03 0003'c/t' 'x'"),
        Publish(
            "a",
            b"x",
            properties={
                P.PAYLOAD_FORMAT: 1,
                P.MESSAGE_EXPIRY: 0xFFFFFFFF,
                P.TOPIC_ALIAS: 10,
                P.RESPONSE_TOPIC: "r/t",
                P.CORRELATION_DATA: b"",
                **_USER,
                P.CONTENT_TYPE: "c/t",
            },
        ),
    ),
    Valid(
        "5, publish to a subscriber, identifiers",
        5,
        packet(0x30, "0001'a' 07 0b 01 0b ffffff7f 'x'"),
        Publish("a", b"x", properties={P.SUBSCRIPTION_IDENTIFIER: [1, 0x0FFFFFFF]}),
        "client",
    ),
    Valid("puback", 4, wire("40 02 0001"), PubAck(1)),
    Valid("pubrec", 4, wire("50 02 0001"), PubRec(1)),
    Valid("pubrel", 4, wire("62 02 0001"), PubRel(1)),
    Valid("pubcomp", 4, wire("70 02 0001"), PubComp(1)),
    Valid("3.1, pubrel sent again", 3, wire("6a 02 0001"), PubRel(1), longer=True),
    Valid("5, puback", 5, wire("40 02 0001"), PubAck(1)),
    Valid("5, puback, a code", 5, wire("40 03 0001 10"), PubAck(1, R.NO_MATCHING_SUBSCRIBERS)),
    Valid("5, puback, long for success", 5, wire("40 04 0001 00 00"), PubAck(1), longer=True),
    Valid("5, puback, properties", 5, packet(0x40, "0001 87 06 1f 0003'why'"), PubAck(1, R.NOT_AUTHORIZED, _WHY)),
    Valid("5, puback, success with properties", 5, packet(0x40, f"0001 00 0e {_USER_WIRE}"), PubAck(1, 0, _USER)),
    Valid("5, pubrec", 5, wire("50 02 0001"), PubRec(1)),
    Valid("5, pubrec, properties", 5, packet(0x50, f"0001 00 0e {_USER_WIRE}"), PubRec(1, 0, _USER)),
    Valid("5, pubrec, a code", 5, wire("50 03 0001 97"), PubRec(1, R.QUOTA_EXCEEDED)),
    Valid("5, pubrel", 5, wire("62 02 0001"), PubRel(1)),
    Valid("5, pubrel, properties", 5, packet(0x62, "0001 92 06 1f 0003'why'"), PubRel(1, 0x92, _WHY)),
    Valid("5, pubrel, a code", 5, wire("62 03 0001 92"), PubRel(1, R.PACKET_IDENTIFIER_NOT_FOUND)),
    Valid("5, pubcomp", 5, wire("70 02 0001"), PubComp(1)),
    Valid("5, pubcomp, properties", 5, packet(0x70, "0001 92 06 1f 0003'why'"), PubComp(1, 0x92, _WHY)),
    Valid("subscribe", 4, packet(0x82, "0001 0003'a/#' 01 0001'+' 02"), Subscribe(1, [("a/#", 1), ("+", 2)])),
    Valid("subscribe, plain filter in 3.1.1", 4, packet(0x82, "0001 0007'$share/' 00"), Subscribe(1, [("$share/", 0)])),
    Valid("3.1, subscribe sent again", 3, packet(0x8A, "0001 0001'a' 01"), Subscribe(1, [("a", 1)]), longer=True),
    Valid(
        "5, subscribe, all options",
        5,
        packet(0x82, f"0001 11 0b 8001 {_USER_WIRE} 0001'a' 2e 000a'$share/g/#' 00"),
        Subscribe(1, [("a", 0x2E), ("$share/g/#", 0)], {P.SUBSCRIPTION_IDENTIFIER: 128, **_USER}),
    ),
    Valid("5, subscribe", 5, packet(0x82, "0001 00 0001'a' 00 0001'b' 01"), Subscribe(1, [("a", 0), ("b", 1)])),
    Valid("unsubscribe", 4, packet(0xA2, "0001 0001'a' 0001'#'"), Unsubscribe(1, ["a", "#"])),
    Valid("5, unsubscribe", 5, packet(0xA2, "0001 00 0001'a' 000a'$share/g/#'"), Unsubscribe(1, ["a", "$share/g/#"])),
    Valid("5, unsubscribe, properties", 5, packet(0xA2, f"0001 0e {_USER_WIRE} 0001'a'"), Unsubscribe(1, ["a"], _USER)),
    Valid("5, pingreq", 5, wire("c0 00"), PingReq()),
    Valid("pingreq", 4, wire("c0 00"), PingReq()),
    Valid("disconnect", 4, wire("e0 00"), Disconnect()),
    Valid("5, disconnect", 5, wire("e0 00"), Disconnect()),
    Valid("5, disconnect with will", 5, wire("e0 01 04"), Disconnect(R.DISCONNECT_WITH_WILL)),
    Valid("5, disconnect, long", 5, wire("e0 02 00 00"), Disconnect(), longer=True),
    Valid("5, disconnect, expiry", 5, wire("e0 07 00 05 11 0000000a"), Disconnect(0, {P.SESSION_EXPIRY: 10})),
    Valid(
        "5, disconnect of the server",
        5,
        packet(0xE0, "9d 0a 1c 0001's' 1f 0003'why'"),
        Disconnect(R.SERVER_MOVED, {P.SERVER_REFERENCE: "s", **_WHY}),
        "client",
    ),
    Valid(
        "5, auth",
        5,
        packet(0xF0, "18 0a 15 0002'me' 16 0002 0001"),
        Auth(R.CONTINUE_AUTHENTICATION, {P.AUTHENTICATION_METHOD: "me", P.AUTHENTICATION_DATA: b"\0\1"}),
    ),
    Valid("5, auth, success", 5, wire("f0 00"), Auth(), "client"),
    Valid("connack", 4, wire("20 02 01 00"), ConnAck(True, 0), "client"),
    Valid("connack, refused", 4, wire("20 02 00 05"), ConnAck(False, 5), "client"),
    Valid("5, connack", 5, wire("20 03 00 00 00"), ConnAck(), "client"),
    Valid(
        "5, connack, all properties",
        5,
        packet(
            0x20,
            "01 00 42 11 00000001 21 0001 24 01 25 00 27 0000ffff 12 0002'id' 22 0003 1f 0003'why'"
            f"{_USER_WIRE} 28 00 29 01 2a 01 13 003c 1a 0001'i' 1c 0001's' 15 0001'm'",
        ),
        ConnAck(
            True,
            0,
            {
                P.SESSION_EXPIRY: 1,
                P.RECEIVE_MAXIMUM: 1,
                P.MAXIMUM_QOS: 1,
                P.RETAIN_AVAILABLE: 0,
                P.MAXIMUM_PACKET_SIZE: 65535,
                P.ASSIGNED_CLIENT_ID: "id",
                P.TOPIC_ALIAS_MAXIMUM: 3,
                **_WHY,
                **_USER,
                P.WILDCARD_SUBSCRIPTION_AVAILABLE: 0,
                P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 1,
                P.SHARED_SUBSCRIPTION_AVAILABLE: 1,
                P.SERVER_KEEP_ALIVE: 60,
                P.RESPONSE_INFORMATION: "i",
                P.SERVER_REFERENCE: "s",
                P.AUTHENTICATION_METHOD: "m",
            },
        ),
        "client",
    ),
    Valid("suback", 4, wire("90 06 0001 00 01 02 80"), SubAck(1, [0, 1, 2, 0x80]), "client"),
    Valid("5, suback", 5, packet(0x90, "0001 00 00 01 02 97"), SubAck(1, [0, 1, 2, R.QUOTA_EXCEEDED]), "client"),
    Valid("5, suback, properties", 5, packet(0x90, "0001 06 1f 0003'why' 87 01"), SubAck(1, [0x87, 1], _WHY), "client"),
    Valid("unsuback", 4, wire("b0 02 0001"), UnsubAck(1, []), "client"),
    Valid("5, unsuback", 5, wire("b0 05 0001 00 00 11"), UnsubAck(1, [0, R.NO_SUBSCRIPTION_EXISTED]), "client"),
    Valid("5, unsuback, properties", 5, packet(0xB0, f"0001 0e {_USER_WIRE} 87"), UnsubAck(1, [0x87], _USER), "client"),
    Valid("5, pingresp", 5, wire("d0 00"), PingResp(), "client"),
    Valid("pingresp", 4, wire("d0 00"), PingResp(), "client"),
]
"""Everything but CONNECT."""

HOSTILE_CONNECT: Final = [
    Hostile("[MQTT-3.1.0-1] publish first", 0, packet(0x30, "0001'a'"), _E),
    Hostile("[MQTT-3.1.0-1] pingreq first", 0, wire("c0 00"), _E),
    Hostile("[MQTT-3.1.0-1] puback first", 0, wire("40 02 0001"), _E),
    Hostile("[MQTT-3.1.0-1] an HTTP request", 0, b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n" + b" " * 60, _E),
    Hostile("[MQTT-3.1.0-1] a TLS hello", 0, wire("16 03 01 02 00"), _M),
    Hostile("[MQTT-2.1.3-1] flags of connect", 0, b"\x11" + OPENING[4][1:], _M),
    Hostile("[MQTT-3.1.2-1] protocol name", 0, packet(0x10, "0004'MQTt' 04 02 003c 0001'c'"), _E),
    Hostile("[MQTT-3.1.2-1] empty protocol name", 0, packet(0x10, "0000 04 02 003c 0001'c'"), _E),
    Hostile("[MQTT-3.1.2-1] protocol name of a version 5", 0, packet(0x10, "0005'MQTTT' 05 02 003c 00 0001'c'"), _E),
    Hostile("[MQTT-3.1.2-2] level 6", 0, packet(0x10, "0004'MQTT' 06 02 003c 00 0001'c'"), R.UNSUPPORTED_PROTOCOL_VERSION),
    Hostile(
        "[MQTT-3.1.2-2] level 3 with MQTT's name",
        0,
        packet(0x10, "0004'MQTT' 03 02 003c 0001'c'"),
        R.UNSUPPORTED_PROTOCOL_VERSION,
    ),
    Hostile("[MQTT-3.1.2-2] level 0", 0, packet(0x10, "0004'MQTT' 00 02 003c 0001'c'"), R.UNSUPPORTED_PROTOCOL_VERSION),
    Hostile("3.1 with level 4", 0, packet(0x10, "0006'MQIsdp' 04 02 003c 0001'c'"), R.UNSUPPORTED_PROTOCOL_VERSION),
    Hostile("empty connect", 0, wire("10 00"), _M),
    Hostile("name longer than the packet", 0, packet(0x10, "ffff'MQTT'"), _M),
    Hostile("ends after the name", 0, packet(0x10, "0004'MQTT'"), _M),
    Hostile("ends after the level", 0, packet(0x10, "0004'MQTT' 04"), _M),
    Hostile("ends inside the keep alive", 0, packet(0x10, "0004'MQTT' 04 02 00"), _M),
    Hostile("ends before the client id", 0, packet(0x10, "0004'MQTT' 04 02 003c"), _M),
    Hostile("client id longer than the packet", 0, packet(0x10, "0004'MQTT' 04 02 003c 0002'c'"), _M),
    Hostile("bytes after the payload", 0, packet(0x10, "0004'MQTT' 04 02 003c 0001'c' 00"), _M),
    Hostile("[MQTT-3.1.2-3] reserved connect flag", 0, packet(0x10, "0004'MQTT' 04 03 003c 0001'c'"), _M),
    Hostile("[MQTT-3.1.2-13] will QoS without will", 0, packet(0x10, "0004'MQTT' 04 0a 003c 0001'c'"), _M),
    Hostile("[MQTT-3.1.2-15] will retain without will", 0, packet(0x10, "0004'MQTT' 04 22 003c 0001'c'"), _M),
    Hostile("[MQTT-3.1.2-14] will QoS 3", 0, packet(0x10, "0004'MQTT' 04 1e 003c 0001'c' 0001'w' 0000"), _M),
    Hostile("[MQTT-3.1.2-22] password without user name", 0, packet(0x10, "0004'MQTT' 04 42 003c 0001'c' 0001'p'"), _M),
    Hostile("[MQTT-3.1.2-9] will flag without a will", 0, packet(0x10, "0004'MQTT' 04 06 003c 0001'c'"), _M),
    Hostile("[MQTT-3.1.2-19] user name missing", 0, packet(0x10, "0004'MQTT' 04 82 003c 0001'c'"), _M),
    Hostile("will with a wildcard", 0, packet(0x10, "0004'MQTT' 04 06 003c 0001'c' 0003'w/#' 0000"), _M),
    Hostile("will with an empty topic", 0, packet(0x10, "0004'MQTT' 04 06 003c 0001'c' 0000 0000"), _M),
    Hostile("[MQTT-1.5.3-1] client id not UTF-8", 0, packet(0x10, "0004'MQTT' 04 02 003c 0001 ff"), _M),
    Hostile("[MQTT-1.5.3-2] client id with U+0000", 0, packet(0x10, "0004'MQTT' 04 02 003c 0001 00"), _M),
    Hostile("1.5.3 client id with a control character", 0, packet(0x10, "0004'MQTT' 04 02 003c 0001 07"), _M),
    Hostile("1.5.3 user name with a control character", 0, packet(0x10, "0004'MQTT' 04 82 003c 0001'c' 0002 c285"), _M),
    Hostile("5, reserved connect flag", 0, packet(0x10, "0004'MQTT' 05 03 003c 00 0001'c'"), _M),
    Hostile("5, properties missing", 0, packet(0x10, "0004'MQTT' 05 02 003c"), _M),
    Hostile("5, padded remaining length", 0, wire("10 8e 00 0004'MQTT' 05 02 003c 00 0001'c'"), _M),
    Hostile("5, receive maximum 0", 0, packet(0x10, "0004'MQTT' 05 02 003c 03 21 0000 0001'c'"), _E),
    Hostile("5, maximum packet size 0", 0, packet(0x10, "0004'MQTT' 05 02 003c 05 27 00000000 0001'c'"), _E),
    Hostile("5, request problem information 2", 0, packet(0x10, "0004'MQTT' 05 02 003c 02 17 02 0001'c'"), _E),
    Hostile("5, request response information 2", 0, packet(0x10, "0004'MQTT' 05 02 003c 02 19 02 0001'c'"), _E),
    Hostile("5, authentication data alone", 0, packet(0x10, "0004'MQTT' 05 02 003c 03 16 0000 0001'c'"), _E),
    Hostile("5, session expiry twice", 0, packet(0x10, "0004'MQTT' 05 02 003c 0a 11 00000000 11 00000000 0001'c'"), _E),
    Hostile("5, will delay outside the will", 0, packet(0x10, "0004'MQTT' 05 02 003c 05 18 00000000 0001'c'"), _M),
    Hostile("5, topic alias in a will", 0, packet(0x10, "0004'MQTT' 05 06 003c 00 0001'c' 03 23 0001 0001'w' 0000"), _M),
    Hostile("5, will payload format 2", 0, packet(0x10, "0004'MQTT' 05 06 003c 00 0001'c' 02 01 02 0001'w' 0000"), _E),
]

HOSTILE: Final = [
    Hostile("[MQTT-3.1.0-2] second connect", 4, OPENING[4], _E),
    Hostile("type 0", 4, wire("00 00"), _E),
    Hostile("type 15 in 3.1.1", 4, wire("f0 00"), _E),
    Hostile("remaining length of 5 bytes", 4, wire("30 ff ff ff ff 01"), _M),
    Hostile("remaining length that never ends", 4, wire("30 80 80 80 80"), _M),
    *(
        Hostile(f"{name} from a client", version, data, _E)
        for version, name, data in (
            (4, "connack", wire("20 02 00 00")),
            (4, "suback", wire("90 03 0001 00")),
            (4, "unsuback", wire("b0 02 0001")),
            (4, "pingresp", wire("d0 00")),
            (5, "connack", wire("20 03 00 00 00")),
            (5, "auth with success", wire("f0 00")),
        )
    ),
    *(
        Hostile(f"[MQTT-2.2.2-2] flags 0x{first:02X}", 4, packet(first, body), _M)
        for first, body in (
            (0x41, "0001"),
            (0x52, "0001"),
            (0x60, "0001"),
            (0x63, "0001"),
            (0x78, "0001"),
            (0x80, "0001 0001'a' 00"),
            (0x83, "0001 0001'a' 00"),
            (0xA0, "0001 0001'a'"),
            (0xC1, ""),
            (0xE1, ""),
        )
    ),
    Hostile("[MQTT-3.3.1-2] dup with QoS 0", 4, packet(0x38, "0001'a'"), _M),
    Hostile("[MQTT-3.3.1-4] QoS 3", 4, packet(0x36, "0001'a' 0001"), _M),
    Hostile("[MQTT-2.3.1-1] publish with packet id 0", 4, packet(0x32, "0001'a' 0000"), _E),
    Hostile("publish, nothing", 4, wire("30 00"), _M),
    Hostile("publish, half a length", 4, wire("30 01 00"), _M),
    Hostile("publish, topic longer than the packet", 4, packet(0x30, "0004'abc'"), _M),
    Hostile("publish, no packet id", 4, packet(0x32, "0001'a'"), _M),
    Hostile("publish, half a packet id", 4, packet(0x32, "0001'a' 00"), _M),
    Hostile("[MQTT-4.7.3-1] empty topic", 4, packet(0x30, "0000'x'"), _M),
    Hostile("[MQTT-3.3.2-2] '+' in a topic", 4, packet(0x30, "0003'a/+'"), _M),
    Hostile("[MQTT-3.3.2-2] '#' in a topic", 4, packet(0x30, "0003'a#b'"), _M),
    Hostile("[MQTT-1.5.3-1] not UTF-8", 4, packet(0x30, "0002 c328"), _M),
    Hostile("[MQTT-1.5.3-1] overlong", 4, packet(0x30, "0002 c0af"), _M),
    Hostile("[MQTT-1.5.3-1] high surrogate", 4, packet(0x30, "0003 eda080"), _M),
    Hostile("[MQTT-1.5.3-1] low surrogate", 4, packet(0x30, "0003 edbfbf"), _M),
    Hostile("[MQTT-1.5.3-1] past U+10FFFF", 4, packet(0x30, "0004 f4908080"), _M),
    Hostile("[MQTT-1.5.3-2] U+0000", 4, packet(0x30, "0003 61 00 62"), _M),
    Hostile("1.5.3 U+0001", 4, packet(0x30, "0001 01"), _M),
    Hostile("1.5.3 U+009F", 4, packet(0x30, "0002 c29f"), _M),
    Hostile("1.5.3 U+FFFF", 4, packet(0x30, "0003 efbfbf"), _M),
    Hostile("puback, packet id 0", 4, wire("40 02 0000"), _E),
    Hostile("puback, half a packet id", 4, wire("40 01 00"), _M),
    Hostile("puback, nothing", 4, wire("40 00"), _M),
    Hostile("puback with a reason in 3.1.1", 4, wire("40 03 0001 00"), _M),
    Hostile("pubrel, packet id 0", 4, wire("62 02 0000"), _E),
    Hostile("[MQTT-2.3.1-1] subscribe with packet id 0", 4, packet(0x82, "0000 0001'a' 00"), _E),
    Hostile("[MQTT-3.8.3-3] subscribe to nothing", 4, packet(0x82, "0001"), _E),
    Hostile("[MQTT-3.8.3-4] QoS 3 asked", 4, packet(0x82, "0001 0001'a' 03"), _M),
    Hostile("[MQTT-3.8.3-4] reserved bits", 4, packet(0x82, "0001 0001'a' 04"), _M),
    Hostile("subscribe without options", 4, packet(0x82, "0001 0001'a'"), _M),
    Hostile("[MQTT-4.7.3-1] empty filter", 4, packet(0x82, "0001 0000 00"), _M),
    Hostile("[MQTT-4.7.1-2] '#' not last", 4, packet(0x82, "0001 0005'a/#/b' 00"), _M),
    Hostile("[MQTT-4.7.1-2] '#' not a level", 4, packet(0x82, "0001 0002'a#' 00"), _M),
    Hostile("[MQTT-4.7.1-3] '+' not a level", 4, packet(0x82, "0001 0004'a+/b' 00"), _M),
    Hostile("a bad filter after a good one", 4, packet(0x82, "0001 0001'a' 00 0002'##' 00"), _M),
    Hostile("[MQTT-3.10.3-2] unsubscribe from nothing", 4, packet(0xA2, "0001"), _E),
    Hostile("unsubscribe, packet id 0", 4, packet(0xA2, "0000 0001'a'"), _E),
    Hostile("unsubscribe, empty filter", 4, packet(0xA2, "0001 0000"), _M),
    Hostile("pingreq with a body", 4, wire("c0 01 00"), _M),
    Hostile("disconnect with a body in 3.1.1", 4, wire("e0 01 00"), _M),
    # --- version 5
    Hostile("[MQTT-1.5.5-1] padded remaining length", 5, wire("30 84 00 0001'a' 00"), _M),
    Hostile("[MQTT-1.5.5-1] padded property length", 5, packet(0x30, "0001'a' 8000"), _M),
    Hostile("publish without a property length", 5, packet(0x30, "0001'a'"), _M),
    Hostile("properties longer than the packet", 5, packet(0x30, "0001'a' 03 23 00"), _M),
    Hostile("property longer than the properties", 5, packet(0x30, "0001'a' 02 23 0001"), _M),
    Hostile("string longer than the properties", 5, packet(0x30, "0001'a' 04 03 0002'x' 'y'"), _M),
    Hostile("user property without its value", 5, packet(0x30, "0001'a' 04 26 0001'k'"), _M),
    Hostile("property length of 5 bytes", 5, packet(0x30, "0001'a' 8080808001"), _M),
    Hostile("2.2.2.2 unknown property", 5, packet(0x30, "0001'a' 02 7f 00"), _M),
    Hostile("2.2.2.2 two-byte property identifier", 5, packet(0x30, "0001'a' 03 8101 00"), _M),
    Hostile("2.2.2.2 property of another packet", 5, packet(0x30, "0001'a' 05 11 00000000"), _M),
    Hostile("3.3.2.1 neither topic nor alias", 5, packet(0x30, "0000 00 'x'"), _E),
    Hostile("[MQTT-3.3.2-8] topic alias 0", 5, packet(0x30, "0001'a' 03 23 0000"), R.TOPIC_ALIAS_INVALID),
    Hostile("topic alias twice", 5, packet(0x30, "0001'a' 06 23 0001 23 0001"), _E),
    Hostile("payload format 2", 5, packet(0x30, "0001'a' 02 01 02"), _E),
    Hostile("payload format twice", 5, packet(0x30, "0001'a' 04 01 01 01 01"), _E),
    Hostile("[MQTT-3.3.2-14] response topic with a wildcard", 5, packet(0x30, "0001'a' 06 08 0003'r/+'"), _E),
    Hostile("empty response topic", 5, packet(0x30, "0001'a' 03 08 0000"), _E),
    Hostile("[MQTT-1.5.4-1] content type not UTF-8", 5, packet(0x30, "0001'a' 04 03 0001 ff"), _M),
    Hostile("[MQTT-1.5.4-2] user property with U+0000", 5, packet(0x30, "0001'a' 06 26 0001 00 0000"), _M),
    Hostile("[MQTT-3.3.4-6] subscription identifier from a client", 5, packet(0x30, "0001'a' 02 0b 01"), _E),
    Hostile("subscription identifier 0", 5, packet(0x82, "0001 02 0b 00 0001'a' 00"), _E),
    Hostile("subscription identifier twice", 5, packet(0x82, "0001 04 0b 01 0b 02 0001'a' 00"), _E),
    Hostile("subscription identifier of 5 bytes", 5, packet(0x82, "0001 06 0b ffffffff01 0001'a' 00"), _M),
    Hostile("[MQTT-3.8.3-2] subscribe to nothing", 5, packet(0x82, "0001 00"), _E),
    Hostile("subscribe without properties", 5, packet(0x82, "0001"), _M),
    Hostile("3.8.3.1 QoS 3 asked", 5, packet(0x82, "0001 00 0001'a' 03"), _E),
    Hostile("3.8.3.1 retain handling 3", 5, packet(0x82, "0001 00 0001'a' 30"), _E),
    Hostile("[MQTT-3.8.3-5] reserved option bits", 5, packet(0x82, "0001 00 0001'a' 40"), _M),
    Hostile("[MQTT-3.8.3-4] no local on a shared subscription", 5, packet(0x82, "0001 00 000a'$share/g/a' 04"), _E),
    Hostile("[MQTT-4.8.2-1] empty share name", 5, packet(0x82, "0001 00 0009'$share//a' 00"), _E),
    Hostile("[MQTT-4.8.2-2] share name with a wildcard", 5, packet(0x82, "0001 00 000b'$share/g+/a' 00"), _E),
    Hostile("[MQTT-4.8.2-2] shared without a filter", 5, packet(0x82, "0001 00 0008'$share/g' 00"), _E),
    Hostile("shared with an empty filter", 5, packet(0x82, "0001 00 0009'$share/g/' 00"), _E),
    Hostile("shared with a bad filter", 5, packet(0x82, "0001 00 000c'$share/g/a#b' 00"), _M),
    Hostile("[MQTT-3.10.3-2] unsubscribe from nothing", 5, packet(0xA2, "0001 00"), _E),
    Hostile("3.4.2.1 puback with a code of another packet", 5, wire("40 03 0001 92"), _E),
    Hostile("3.4.2.1 puback with an unknown code", 5, wire("40 03 0001 ff"), _E),
    Hostile("puback with bytes after its properties", 5, wire("40 05 0001 00 00 00"), _M),
    Hostile("puback with a property of another packet", 5, packet(0x40, "0001 00 03 23 0001"), _M),
    Hostile("reason string twice", 5, packet(0x40, "0001 00 06 1f 0000 1f 0000"), _E),
    Hostile("3.6.2.1 pubrel with a code of another packet", 5, wire("62 03 0001 80"), _E),
    Hostile("3.14.2.1 disconnect with a code of the server", 5, wire("e0 01 8e"), _E),
    Hostile("disconnect with a property of another packet", 5, wire("e0 05 00 03 21 0001"), _M),
    Hostile("disconnect with bytes after its properties", 5, wire("e0 03 00 00 00"), _M),
    Hostile("session expiry twice in a disconnect", 5, wire("e0 0c 00 0a 11 00000000 11 00000000"), _E),
    Hostile("[MQTT-3.15.1-1] flags of auth", 5, wire("f1 00"), _M),
    Hostile("3.15.2.1 auth without properties", 5, wire("f0 01 18"), _M),
    Hostile("3.15.2.2.2 auth without a method", 5, wire("f0 02 18 00"), _E),
    Hostile("3.15.2.1 auth with success from a client", 5, packet(0xF0, "00 04 15 0001'm'"), _E),
]

HOSTILE_SERVER: Final = [
    Hostile("connect to a client", 4, OPENING[4], _E, "client"),
    Hostile("subscribe to a client", 4, packet(0x82, "0001 0001'a' 00"), _E, "client"),
    Hostile("[MQTT-3.2.2-1] connack flags", 4, wire("20 02 02 00"), _M, "client"),
    Hostile("[MQTT-3.2.2-4] session present in a refusal", 4, wire("20 02 01 05"), _E, "client"),
    Hostile("connack with an unknown code", 4, wire("20 02 00 06"), _E, "client"),
    Hostile("[MQTT-3.9.3-2] suback with an unknown code", 4, wire("90 03 0001 03"), _E, "client"),
    Hostile("suback for nothing", 4, wire("90 02 0001"), _M, "client"),
    Hostile("unsuback with a body in 3.1.1", 4, wire("b0 03 0001 00"), _M, "client"),
    Hostile("pingresp with a body", 4, wire("d0 01 00"), _M, "client"),
    Hostile("5, connack with an unknown code", 5, wire("20 03 00 01 00"), _E, "client"),
    Hostile("5, connack, maximum QoS 2", 5, wire("20 05 00 00 02 24 02"), _E, "client"),
    Hostile("5, connack, a client's property", 5, wire("20 05 00 00 02 17 01"), _M, "client"),
    Hostile("5, publish, subscription identifier 0", 5, packet(0x30, "0001'a' 02 0b 00"), _E, "client"),
    Hostile("5, unsuback for nothing", 5, wire("b0 03 0001 00"), _M, "client"),
    Hostile("[MQTT-3.14.2-2] session expiry from the server", 5, wire("e0 07 00 05 11 00000000"), _E, "client"),
    Hostile("5, disconnect with will from the server", 5, wire("e0 01 04"), _E, "client"),
    Hostile("5, auth, re-authentication from the server", 5, packet(0xF0, "19 04 15 0001'm'"), _E, "client"),
]
