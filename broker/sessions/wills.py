"""Wills, as they are kept with a session. No I/O.

Who publishes one: `lifecycle` when its connection ends, or a clean start ends its session; `deadlines` when its delay has
passed, or the broker crashed.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from broker.clock import ServerTime
from broker.packets import FORWARDED, Properties, Property, Will, encode_property_body
from broker.publication import Outgoing, Publication
from storage.records import EXPIRES_AT_ONCE, DeviceKey

_REMEMBERED = 86_400_000
"""Milliseconds for which storage knows that a will was published."""


def pack(will: Will) -> bytes:
    """A will as storage keeps it."""
    properties = will.properties
    forwarded: Properties = {key: properties[key] for key in FORWARDED if key in properties}
    fields: dict[str, Any] = {
        "topic": will.topic,
        "qos": will.qos,
        "retain": will.retain,
        "delay": properties.get(Property.WILL_DELAY, 0),
        "expiry": properties.get(Property.MESSAGE_EXPIRY, 0) or (-1 if Property.MESSAGE_EXPIRY in properties else 0),
        "id": uuid.uuid4().hex,
        "properties": (encode_property_body(forwarded) if forwarded else b"").hex(),
    }
    head = json.dumps(fields, separators=(",", ":")).encode()
    return len(head).to_bytes(4, "big") + head + will.payload


def topic(packed: bytes) -> str:
    """Where it goes."""
    return str(_fields(packed)["topic"])


def delay(packed: bytes) -> int:
    """Seconds between the end of the connection and the publishing [MQTT-3.1.3-9]."""
    return int(_fields(packed)["delay"])


def append(packed: bytes, device: DeviceKey, time: ServerTime) -> Publication:
    """The will as a message of its device; its expiry counts from now, when it is published.

    It carries a key of its own: after a crash in the middle of its commit it is published again, and must be stored once.
    """
    fields = _fields(packed)
    payload = packed[4 + int.from_bytes(packed[:4], "big") :]
    message = Outgoing(fields["topic"], device.user, device.client_id, fields["qos"], payload, fields["retain"])
    message.properties = bytes.fromhex(fields["properties"])
    now = time.now()
    if fields["expiry"]:  # -1: an interval of 0
        message.expires = now + fields["expiry"] * 1000 if fields["expiry"] > 0 else EXPIRES_AT_ONCE
    key = f"will/{fields['id']}"
    return Publication(
        message, retain=fields["retain"], idempotency_key=key, idempotency_at=now, idempotency_until=now + _REMEMBERED
    )


def _fields(packed: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(packed[4 : 4 + int.from_bytes(packed[:4], "big")])
    return fields
