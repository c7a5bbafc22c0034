"""What a trace tells of a packet, and of what becomes of a message: without its secrets. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from broker.packets import Connect, Packet, Property, Publish, Subscribe, Unsubscribe
from broker.publication import Publication
from storage.errors import MessageRefused

_MOST_PAYLOAD = 4096
"""Bytes of a payload that are shown."""

Event = dict[str, Any]


def event(kind: str, about: Mapping[str, str]) -> Event:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": time, "event": kind, **{name: value for name, value in about.items() if value}}


def inbox_place(publication: Publication, user: str) -> int:
    """Where the message is in a user's inbox; 0 where it is not."""
    seqs = dict(zip(publication.recipients, publication.inbox_seqs, strict=False))
    return seqs.get(user, 0)


def outcome(publication: Publication) -> str:
    if publication.error is not None:
        return "refused"
    if publication.original is not None:
        return "repeated"
    return "stored" if publication.store else "passed on"


def stored(publication: Publication, inbox_seq: int) -> Event:
    """What came of a message: its place in its conversation, and how many inboxes have it; or why it was refused."""
    message = publication.message
    fields: Event = {"topic": message.topic, "qos": message.qos, "size": len(message.payload)}
    if publication.error is not None:
        code = getattr(publication.error, "code", None)
        refused = str(publication.error) if isinstance(publication.error, MessageRefused) else type(publication.error).__name__
        return {**fields, "reason": refused, **({} if code is None else {"code": f"0x{code:02X}"})}
    message_id, seq = publication.original or (message.id, message.seq)
    fields |= {"id": f"{message_id:016x}", "seq": seq, "inboxes": len(publication.recipients)}
    if inbox_seq:
        fields["inbox_seq"] = inbox_seq
    return fields


def described(packet: Packet, topic: str, *, payload: bool) -> Event:
    """A packet without its secrets: type, identifier, QoS, topic, sizes, filters, reason codes."""
    fields: Event = {"packet": packet.type.name}
    for name in ("packet_id", "qos"):
        if (value := getattr(packet, name, None)) is not None and (value or name == "qos"):
            fields[name] = value
    for name in ("dup", "retain", "session_present", "clean_start"):
        if getattr(packet, name, False):
            fields[name] = True
    if topic:
        fields["topic"] = topic
    if isinstance(packet, Publish):
        fields["size"] = len(packet.payload)
        if payload:
            fields |= _payload(packet.payload)
    elif isinstance(packet, Connect):
        fields |= {"version": packet.version, "keep_alive": packet.keep_alive, "password": packet.password is not None}
        if packet.will is not None:
            fields["will"] = {"topic": packet.will.topic, "qos": packet.will.qos, "size": len(packet.will.payload)}
    elif isinstance(packet, Subscribe):
        fields["filters"] = [{"filter": name, "qos": options & 3} for name, options in packet.subscriptions]
    elif isinstance(packet, Unsubscribe):
        fields["filters"] = [{"filter": name} for name in packet.filters]
    if (reason := getattr(packet, "reason", None)) is not None:
        fields["code"] = f"0x{reason:02X}"
    if reasons := getattr(packet, "reasons", None):
        fields["codes"] = [f"0x{reason:02X}" for reason in reasons]
    return fields | _properties(packet)


def _properties(packet: Packet) -> Event:
    """Those that say how a packet is dealt with. User properties may hold anything, as payloads do."""
    properties = getattr(packet, "properties", {})
    fields: Event = {}
    for name, label in _TOLD.items():
        if name in properties:
            fields[label] = properties[name]
    return fields


_TOLD = {
    Property.REASON_STRING: "reason",
    Property.MESSAGE_EXPIRY: "expiry",
    Property.SESSION_EXPIRY: "session_expiry",
    Property.RECEIVE_MAXIMUM: "receive_maximum",
    Property.TOPIC_ALIAS: "alias",
    Property.CONTENT_TYPE: "content_type",
    Property.RESPONSE_TOPIC: "response_topic",
    Property.SUBSCRIPTION_IDENTIFIER: "subscription_identifier",
}


def _payload(payload: bytes) -> Event:
    shown = payload[:_MOST_PAYLOAD]
    cut = {"payload_cut": True} if len(payload) > _MOST_PAYLOAD else {}
    try:
        return {"payload": shown.decode(), **cut}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(shown).decode(), **cut}
