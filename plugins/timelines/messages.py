"""Messages as JSON, and payloads from it.

A payload is given as ``text`` where it is UTF-8, as ``json`` where it is an object or an array (or its content type says
JSON), and as ``base64`` otherwise. What JSON could not give back as it was (an infinite number, say) is given as text.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

from broker.packets import (
    EMPTY,
    PacketType,
    Properties,
    Property,
    ProtocolViolation,
    decode_properties,
    encode_property_body,
    wire,
)
from plugins.timelines.errors import Unprocessable
from storage.messages import RECALLED
from storage.records import InboxEntry, Message

MENTIONED = "mentions"
"""The user property that names whom a message mentions: a user key, or a user name."""
EDITS = "tideline-edits"
"""The user property of a message that is a later version of another, whose id it holds."""


def hex_id(message_id: int) -> str:
    """A message id as callers see it: 16 hexadecimal digits."""
    return f"{message_id:016x}"


def parse_id(text: str) -> int:
    """The other way round; 0, which no message has, for anything else."""
    if len(text) != 16 or not all(c in "0123456789abcdef" for c in text):
        return 0
    number = int(text, 16)
    return number if number < 1 << 63 else 0


def rendered(message: Message) -> dict[str, Any]:
    """A message as JSON."""
    properties = message_properties(message)
    content_type = properties.get(Property.CONTENT_TYPE)
    encoding, payload = shown_payload(message.payload, content_type or "")
    return {
        "id": hex_id(message.id),
        "topic": message.topic,
        "seq": message.seq,
        "sender": message.user,
        "device": message.device,
        "time": message.time,
        "qos": message.qos,
        "retain": message.retain,
        "expires": message.expires or None,
        "content_type": content_type,
        "properties": [list(pair) for pair in properties.get(Property.USER_PROPERTY, ())],
        "encoding": encoding,
        "payload": payload,
        "recalled": recalled_by(message, properties),
        "edits": _named(EDITS, properties),
        "edited": None,
        "edited_time": None,
        "versions": 1,
        "reactions": {},
    }


def rendered_version(message: Message, latest: Message, versions: int) -> dict[str, Any]:
    """A message with the content of its latest version."""
    shown, newer = rendered(message), rendered(latest)
    content = {name: newer[name] for name in ("content_type", "encoding", "payload")}
    return {**shown, **content, "edited": newer["id"], "edited_time": latest.time, "versions": versions}


def _named(name: str, properties: Properties) -> str | None:
    return next((value for one, value in properties.get(Property.USER_PROPERTY, ()) if one == name), None)


def recalled_by(message: Message, properties: Properties) -> str | None:
    """The id of the message that recalled this one."""
    if not message.recalled:
        return None
    return _named(RECALLED, properties)


def rendered_entry(entry: InboxEntry) -> dict[str, Any]:
    """An inbox entry as JSON: its sequence, which acknowledging names, and its message."""
    return {"offset": entry.seq, "message": rendered(entry.message) if entry.message is not None else None}


def message_properties(message: Message) -> Properties:
    """The MQTT 5 properties that travel with a message."""
    body = message.properties
    if not body:
        return EMPTY
    data = wire.varint(len(body)) + body
    try:
        return decode_properties(data, 0, len(data), PacketType.PUBLISH)[0]
    except ProtocolViolation:  # written by another version: the message is still worth showing
        return EMPTY


def content_properties(
    content_type: str | None,
    pairs: list[tuple[str, str]],
    text: bool,
    response_topic: str | None = None,
    correlation: bytes = b"",
) -> bytes:
    """The properties of a message that is published over HTTP, encoded. Raises `Unprocessable`."""
    properties: Properties = {}
    if text:
        properties[Property.PAYLOAD_FORMAT] = 1
    if content_type:
        properties[Property.CONTENT_TYPE] = content_type
    if response_topic is not None:
        properties[Property.RESPONSE_TOPIC] = response_topic
    if correlation:
        properties[Property.CORRELATION_DATA] = correlation
    if pairs:
        properties[Property.USER_PROPERTY] = pairs
    for value in (content_type or "", *(part for pair in pairs for part in pair)):
        try:
            wire.check_identifier(value, "property")
        except ProtocolViolation as violation:
            raise Unprocessable(violation.text) from violation
    try:
        return encode_property_body(properties)
    except ValueError as error:
        raise Unprocessable(f"a property cannot be encoded: {error}") from error


def payload_bytes(value: Any, encoding: str, field: str = "payload") -> bytes:
    """A payload as given in a ``field`` of a request: JSON value, text or base64. Raises `Unprocessable`."""
    try:
        if encoding == "json":
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        if not isinstance(value, str):
            raise Unprocessable(f'{field}: must be a string where encoding is {encoding}; other JSON needs "encoding": "json"')
        return base64.b64decode(value, validate=True) if encoding == "base64" else value.encode()
    except binascii.Error as error:
        raise Unprocessable(f"{field}: not base64: {error}") from error
    except (UnicodeEncodeError, ValueError, RecursionError) as error:
        raise Unprocessable(f"{field}: cannot be encoded as UTF-8 JSON or text") from error


def shown_payload(payload: bytes, content_type: str = "") -> tuple[str, Any]:
    """How a payload is shown: its encoding (text, json, base64), and the payload in it."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(payload).decode()
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("application/json", "text/json") or kind.endswith("+json") or text[:1] in ("{", "["):
        try:
            return "json", json_value(text)
        except (ValueError, RecursionError):
            pass
    return "text", text


def json_value(text: str) -> Any:
    """JSON that another parser reads alike. Raises ValueError, and RecursionError."""
    return json.loads(text, parse_constant=_impossible, parse_float=_finite, object_pairs_hook=_once)


def _impossible(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found
