"""Hypothesis strategies for every packet of every version and direction."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from broker.packets import bodies
from broker.packets.codes import PacketType
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
from broker.packets.properties import BELONGS, EMPTY, WILL, Properties, Property

_free = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_fit = st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co"), exclude_characters="+#/")
identifiers = st.text(_fit, max_size=12)
_levels = st.lists(st.text(_fit, max_size=4) | st.just("$SYS"), min_size=1, max_size=5)
names = _levels.map("/".join).filter(bool)


def _filter(levels: list[str], tail: bool) -> str:
    return "/".join([*levels, "#"] if tail else levels)


filters = st.builds(_filter, st.lists(st.text(_fit, max_size=4) | st.just("+"), min_size=1, max_size=5), st.booleans()).filter(
    lambda text: bool(text) and not text.startswith("$share/")
)
shared = st.builds("$share/{}/{}".format, st.text(_fit, min_size=1, max_size=4), filters)
ids = st.integers(1, 0xFFFF)
payloads = st.binary(max_size=300)
qos = st.integers(0, 2)

_bits, _u16, _u32 = st.integers(0, 1), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
_values: dict[Property, st.SearchStrategy[Any]] = {
    Property.PAYLOAD_FORMAT: _bits,
    Property.MESSAGE_EXPIRY: _u32,
    Property.CONTENT_TYPE: _free,
    Property.RESPONSE_TOPIC: names,
    Property.CORRELATION_DATA: st.binary(max_size=20),
    Property.SUBSCRIPTION_IDENTIFIER: st.integers(1, 0x0FFFFFFF),
    Property.SESSION_EXPIRY: _u32,
    Property.ASSIGNED_CLIENT_ID: _free,
    Property.SERVER_KEEP_ALIVE: _u16,
    Property.AUTHENTICATION_METHOD: _free,
    Property.AUTHENTICATION_DATA: st.binary(max_size=20),
    Property.REQUEST_PROBLEM_INFORMATION: _bits,
    Property.WILL_DELAY: _u32,
    Property.REQUEST_RESPONSE_INFORMATION: _bits,
    Property.RESPONSE_INFORMATION: _free,
    Property.SERVER_REFERENCE: _free,
    Property.REASON_STRING: _free,
    Property.RECEIVE_MAXIMUM: ids,
    Property.TOPIC_ALIAS_MAXIMUM: _u16,
    Property.TOPIC_ALIAS: ids,
    Property.MAXIMUM_QOS: _bits,
    Property.RETAIN_AVAILABLE: _bits,
    Property.USER_PROPERTY: st.lists(st.tuples(_free, _free), min_size=1, max_size=3),
    Property.MAXIMUM_PACKET_SIZE: st.integers(1, 0xFFFFFFFF),
    Property.WILDCARD_SUBSCRIPTION_AVAILABLE: _bits,
    Property.SUBSCRIPTION_IDENTIFIER_AVAILABLE: _bits,
    Property.SHARED_SUBSCRIPTION_AVAILABLE: _bits,
}


@st.composite
def properties(draw: st.DrawFn, where: int, role: str = "server") -> Properties:
    """Any legal properties for a packet type, or a will, in any order."""
    legal = set(BELONGS[where])
    if where == PacketType.PUBLISH and role == "server":
        legal.discard(Property.SUBSCRIPTION_IDENTIFIER)
    if where == PacketType.DISCONNECT and role == "client":
        legal.discard(Property.SESSION_EXPIRY)
    chosen = draw(st.lists(st.sampled_from(sorted(legal)), unique=True))
    if Property.AUTHENTICATION_METHOD not in chosen and (Property.AUTHENTICATION_DATA in chosen or where == PacketType.AUTH):
        chosen.append(Property.AUTHENTICATION_METHOD)
    found: Properties = {}
    for known in chosen:
        value = _values[known]
        if known is Property.SUBSCRIPTION_IDENTIFIER and where == PacketType.PUBLISH:
            value = st.lists(value, min_size=1, max_size=3)
        found[known] = draw(value)
    return found


def _props(version: int, where: int, role: str) -> st.SearchStrategy[Properties]:
    return st.just(EMPTY) | properties(where, role) if version == 5 else st.just(EMPTY)


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    will = None
    if draw(st.booleans()):
        will = Will(draw(names), draw(payloads), draw(qos), draw(st.booleans()), draw(_props(version, WILL, "server")))
    username = draw(st.none() | identifiers)
    password = draw(st.none() | st.binary(max_size=20)) if username is not None or version == 5 else None
    extra = draw(_props(version, PacketType.CONNECT, "server"))
    return Connect(draw(identifiers), version, draw(st.booleans()), draw(_u16), username, password, will, extra)


@st.composite
def publishes(draw: st.DrawFn, version: int, role: str) -> Publish:
    level = draw(qos)
    extra = draw(_props(version, PacketType.PUBLISH, role))
    topic = draw(names | st.just("")) if Property.TOPIC_ALIAS in extra else draw(names)
    dup = level > 0 and draw(st.booleans())
    return Publish(topic, draw(payloads), level, draw(st.booleans()), dup, draw(ids) if level else 0, extra)


@st.composite
def acks(draw: st.DrawFn, version: int, role: str) -> PubAck | PubRec | PubRel | PubComp:
    kinds: tuple[type[PubAck | PubRec | PubRel | PubComp], ...] = (PubAck, PubRec, PubRel, PubComp)
    kind = draw(st.sampled_from(kinds))
    allowed = bodies._RECEIVED if kind in (PubAck, PubRec) else bodies._RELEASED
    code = draw(st.sampled_from(sorted(allowed))) if version == 5 else 0
    return kind(draw(ids), int(code), draw(_props(version, kind.type, role)))


@st.composite
def subscribes(draw: st.DrawFn, version: int) -> Subscribe:
    if version == 5:
        options = st.builds(lambda q, bits, handling: q | bits << 2 | handling << 4, qos, st.integers(0, 3), qos)
        entries = st.tuples(filters, options) | st.tuples(shared, qos)
    else:
        entries = st.tuples(filters | shared, qos)
    found = draw(st.lists(entries, min_size=1, max_size=4))
    return Subscribe(draw(ids), found, draw(_props(version, PacketType.SUBSCRIBE, "server")))


def from_client(version: int) -> st.SearchStrategy[Packet]:
    """Any packet that a client may send after its CONNECT."""
    chosen: list[st.SearchStrategy[Packet]] = [
        publishes(version, "server"),
        acks(version, "server"),
        subscribes(version),
        st.builds(
            Unsubscribe, ids, st.lists(filters, min_size=1, max_size=4), _props(version, PacketType.UNSUBSCRIBE, "server")
        ),
        st.just(PingReq()),
    ]
    if version == 5:
        leaving = st.sampled_from(sorted(bodies._CLIENT_LEAVES)).map(int)
        chosen.append(st.builds(Disconnect, leaving, _props(5, PacketType.DISCONNECT, "server")))
        chosen.append(st.builds(Auth, st.sampled_from((0x18, 0x19)), properties(PacketType.AUTH)))
    else:
        chosen.append(st.just(Disconnect()))
    return st.one_of(chosen)


def from_server(version: int) -> st.SearchStrategy[Packet]:
    """Any packet that a server may send."""
    five = version == 5
    granted = st.sampled_from(sorted(bodies._SUBSCRIBED)).map(int) if five else st.sampled_from((0, 1, 2, 0x80))
    refused = st.sampled_from(sorted(bodies._REFUSALS)).map(int) if five else st.integers(1, 5)
    ended = st.sampled_from(sorted(bodies._UNSUBSCRIBED)).map(int)
    welcome = _props(version, PacketType.CONNACK, "client")
    chosen: list[st.SearchStrategy[Packet]] = [
        publishes(version, "client"),
        acks(version, "client"),
        st.builds(ConnAck, st.booleans(), st.just(0), welcome),
        st.builds(ConnAck, st.just(False), refused, welcome),
        st.builds(SubAck, ids, st.lists(granted, min_size=1, max_size=4), _props(version, PacketType.SUBACK, "client")),
        st.builds(
            UnsubAck,
            ids,
            st.lists(ended, min_size=1, max_size=4) if five else st.just([]),
            _props(version, PacketType.UNSUBACK, "client"),
        ),
        st.just(PingResp()),
    ]
    if five:
        leaving = st.sampled_from(sorted(bodies._SERVER_LEAVES)).map(int)
        chosen.append(st.builds(Disconnect, leaving, _props(5, PacketType.DISCONNECT, "client")))
        chosen.append(st.builds(Auth, st.sampled_from((0, 0x18)), properties(PacketType.AUTH)))
    return st.one_of(chosen)
