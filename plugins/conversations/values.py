"""Drafts, settings and the like: small values of a user, by key, the same on all of the user's devices.

They are a timeline: each change is a message on a topic of the user's own, which all of its devices follow. So a device hears
of changes as of any message, also of those that it missed, and of two that change one value at once the later one holds.
What each value is now is kept beside it, in the message's own commit.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from broker.hooks import Refusal
from broker.packets import ReasonCode
from plugins.conversations.changes import Memberships
from plugins.conversations.model import MINE, OWN, VALUES
from plugins.timelines import OPERATOR, Timelines, Unprocessable, Who
from plugins.timelines.publishing import Draft, Receipt
from storage.records import Append, DropRow, Operation, PutRow

MAX_KEY = 200
"""Characters of a key."""
MAX_VALUE = 64 << 10
"""Bytes of a value, as JSON."""


class Values:
    """The values of users; ``most`` of each. ``prefix``: what the topics of conversations begin with."""

    def __init__(self, memberships: Memberships, prefix: str, most: int, timeout: float) -> None:
        self._memberships = memberships
        self._server = memberships.server
        self._prefix = f"{prefix}{OWN}/"
        self._most = most
        self._timeout = timeout

    def topic(self, user: str) -> str:
        """The topic of a user's own. A user key may hold what no level of a topic may."""
        return f"{self._prefix}{hashlib.blake2b(user.encode(), digest_size=16).hexdigest()}"

    def is_one(self, topic: str) -> bool:
        """Whether a topic is somebody's own."""
        return topic.startswith(self._prefix)

    async def listed(self, who: Who, after: str, limit: int) -> dict[str, Any]:
        """A page of a user's values, by key; ``last`` is the sequence of the topic up to which they are as they are told here,
        at least: what is changed behind it comes as messages."""
        topic = self.topic(who.user)
        last = (await self._server.storage.conversation_bounds(topic))[1]
        page = await self._server.storage.rows(VALUES, who.user, after=after, limit=limit)
        more = page[-1].key if len(page) == limit else None
        return {"topic": topic, "last": last, "values": {row.key: json.loads(row.value) for row in page}, "next": more}

    async def set(self, who: Who, key: str, value: Any, device: str = "") -> dict[str, Any]:
        """Give a key a value; None forgets it. What is returned tells the change's place in the topic."""
        payload = encoded(key, value)
        await self._room(who.user, key, value)
        await self._follow(who.user)
        draft = Draft(self.topic(who.user), payload, content_type="application/json", text=True, device=device)
        (done,) = await Timelines(self._server, self._timeout).publisher.publish_all(who, [draft])
        if not isinstance(done, Receipt):
            raise done
        return {"key": key, "value": value, "topic": draft.topic, "seq": done.shown["seq"]}

    async def _room(self, user: str, key: str, value: Any) -> None:
        storage = self._server.storage
        if value is None or await storage.row(VALUES, user, key) is not None:
            return
        if await self._memberships.store.count(user, self._most, VALUES) >= self._most:
            raise Unprocessable(f"{user[:80]} has {self._most} values, as many as it may")

    async def _follow(self, user: str) -> None:
        """All devices follow from the first change on; those that come later find it among the user's conversations."""
        topic, followed = self.topic(user), self._memberships.followed
        changes = followed.changes
        if followed.get((user, topic)):
            return
        await self._memberships.store.write([PutRow(MINE, user, topic, b"")])
        await self._memberships.follow(user, topic)
        followed.note((user, topic), True, changes)

    def changed(self, append: Append) -> list[Operation]:
        """What a message on somebody's own topic changes. Refuses one that is none of ours."""
        message = append.message
        if message.user == OPERATOR and not message.payload:
            return []  # it recalls, or clears what is retained
        if message.topic != self.topic(message.user):
            append.error = Refusal("a value is its user's own", ReasonCode.NOT_AUTHORIZED)
            return []
        try:
            key, value = decoded(message.payload)
        except ValueError as error:
            append.error = Refusal(f"a value cannot be kept: {error}", ReasonCode.PAYLOAD_FORMAT_INVALID)
            return []
        if value is None:
            return [DropRow(VALUES, message.user, key)]
        return [PutRow(VALUES, message.user, key, json.dumps(value, ensure_ascii=False).encode())]


def encoded(key: str, value: Any) -> bytes:
    """A change as a message. Raises `Unprocessable`."""
    try:
        payload = json.dumps({"key": key, "value": value}, ensure_ascii=False, allow_nan=False).encode()
        decoded(payload)
    except (ValueError, RecursionError) as error:
        raise Unprocessable(str(error)) from error
    return payload


def decoded(payload: bytes) -> tuple[str, Any]:
    """The other way round. Raises ValueError with what is wrong."""
    if len(payload) > MAX_VALUE + 6 * MAX_KEY:
        raise ValueError(f"value of {len(payload)} bytes: at most {MAX_VALUE}")
    try:
        found = json.loads(payload, parse_constant=_no_json)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.keys() != {"key", "value"} or not isinstance(found["key"], str):
        raise ValueError('it must be JSON such as {"key": "draft", "value": "hello"}')
    if not 0 < len(found["key"]) <= MAX_KEY or "\0" in found["key"]:
        raise ValueError(f"key {found['key'][:40]!r}: must have 1 to {MAX_KEY} characters")
    return found["key"], found["value"]


def _no_json(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
