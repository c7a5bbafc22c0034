"""What is told of a message in storage.

A message's events are made when the hook comes to it: who has a filter for its topic, and no device connected, is as of then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from broker.amqtt import BROKER_USER
from plugins.timelines.messages import hex_id, rendered
from plugins.webhooks.config import OFFLINE, STORED, Hook
from storage.records import Message

Event = dict[str, Any]

CLIENTS = "$sync/clients"
"""The conversation in which who comes and goes is stored. Nobody but the broker may publish below ``$sync/``, or read there."""


async def events_of(hook: Hook, message: Message, away: Callable[[str], AsyncIterator[str]], now: int) -> AsyncIterator[Event]:
    """In a fixed order, with ids that are the same whenever it is asked. ``away``: users who would be given what is published
    to a topic and may receive it, have no device connected, and want to be notified."""
    if message.topic == CLIENTS:
        if message.user == BROKER_USER:
            event = json.loads(message.payload)
            if event["type"] in hook.events:
                yield _event(message, event["type"], event["data"])
        return
    # What the broker says itself is left out: dead letters of two hooks would be told to each other for ever.
    if message.user == BROKER_USER or not hook.wants(message):
        return
    if STORED in hook.events:
        yield _event(message, STORED, {"message": _shown(hook, message)})
    if OFFLINE in hook.events and not message.expired(now):
        async for user in away(message.topic):
            if user != message.user:
                mark = hashlib.sha256(user.encode()).hexdigest()[:16]
                yield _event(message, OFFLINE, {"user": user, "message": _shown(hook, message)}, f"_{mark}")


def body_of(events: list[Event], *, batched: bool) -> tuple[str, bytes]:
    """The id of a request, and its body."""
    if not batched:
        (event,) = events
        return event["id"], _dumps(event)
    whole = {"type": "batch", "timestamp": events[-1]["timestamp"], "data": events}
    return f"{events[0]['id']}-{events[-1]['id']}", _dumps(whole)


def _event(message: Message, kind: str, data: dict[str, Any], more: str = "") -> Event:
    at = datetime.fromtimestamp(message.time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"id": f"msg_{hex_id(message.id)}{more}", "type": kind, "timestamp": at, "data": data}


def _shown(hook: Hook, message: Message) -> dict[str, Any]:
    shown = rendered(message)
    if not hook.payloads:
        for name in ("payload", "encoding", "content_type", "properties"):
            del shown[name]
    return shown


def _dumps(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
