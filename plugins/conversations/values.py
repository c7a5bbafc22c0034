"""Drafts, settings and the like: small values of a user, by key, the same on all of the user's devices.

They are a timeline: each change is a message on a topic of the user's own, which all of its devices follow. So a device hears
of changes as of any message, also of those that it missed, and of two that change one value at once the later one holds.
What each value is now is kept beside it, in the message's own commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from broker.hooks import Refusal
from broker.packets import ReasonCode
from plugins.conversations.changes import Memberships
from plugins.conversations.model import MINE, OWN, VALUES
from plugins.timelines import OPERATOR, Timelines, Unprocessable, Who
from plugins.timelines.messages import json_value
from plugins.timelines.publishing import Draft, Receipt
from storage.records import Append, DropRow, Operation, PutRow

MAX_KEY = 200
"""Characters of a key."""
MAX_VALUE = 64 << 10
"""Bytes of a value, as JSON."""
MAX_DEPTH = 100
"""Of lists and objects in one another: a deeper value might be stored, and could not be told with others any more."""
_LONGEST = MAX_VALUE + 6 * MAX_KEY
"""Bytes of a message that is looked into."""


class Values:
    """The values of users; ``most`` of each. ``prefix``: what the topics of conversations begin with."""

    def __init__(self, memberships: Memberships, prefix: str, most: int, timeout: float) -> None:
        self._memberships = memberships
        self._server = memberships.server
        self.prefix = f"{prefix}{OWN}/"
        """What the topics of all users' own begin with."""
        self._most = most
        self._timeout = timeout

    def topic(self, user: str) -> str:
        """The topic of a user's own. A user key may hold what no level of a topic may."""
        return f"{self.prefix}{hashlib.blake2b(user.encode(), digest_size=16).hexdigest()}"

    def is_one(self, topic: str) -> bool:
        """Whether a topic is somebody's own."""
        return topic.startswith(self.prefix)

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
        await self._follow(who.user)
        draft = Draft(self.topic(who.user), payload, content_type="application/json", text=True, device=device)
        (done,) = await Timelines(self._server, self._timeout).publisher.publish_all(who, [draft])
        if not isinstance(done, Receipt):
            raise done
        return {"key": key, "value": value, "topic": draft.topic, "seq": done.shown["seq"]}

    async def _follow(self, user: str) -> None:
        """All devices follow from the first change on; those that come later find it among the user's conversations."""
        topic, followed = self.topic(user), self._memberships.followed
        changes = followed.changes
        if followed.get((user, topic)):
            return
        await self._memberships.store.write([PutRow(MINE, user, topic, b"")])
        await self._memberships.follow(user, topic)
        followed.note((user, topic), True, changes)

    async def changed(self, append: Append, others: Iterable[Operation]) -> list[Operation]:
        """What a message on somebody's own topic changes; ``others`` are those that its group makes already. Refuses one that
        is none of ours, or for which there is no room."""
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
            return [DropRow(VALUES, message.user, key, of=append)]
        if not await self._room(message.user, key, others):
            text = f"{message.user[:80]} has {self._most} values, as many as it may: forget one first"
            append.error = Refusal(text, ReasonCode.QUOTA_EXCEEDED)
            return []
        return [PutRow(VALUES, message.user, key, _json(value), of=append)]

    async def _room(self, user: str, key: str, others: Iterable[Operation]) -> bool:
        """Whether the user may have one of this key: it has one, or not yet as many as it may."""
        storage, store = self._server.storage, self._memberships.store
        new = {op.key for op in others if isinstance(op, PutRow) and (op.table, op.part) == (VALUES, user)}
        if key in new or await storage.row(VALUES, user, key) is not None:
            return True
        return len(new) + await store.count(user, self._most, VALUES) < self._most


def encoded(key: str, value: Any) -> bytes:
    """A change as a message. Raises `Unprocessable`."""
    try:
        _check(key, value)
    except ValueError as error:
        raise Unprocessable(str(error)) from error
    return json.dumps({"key": key, "value": value}, ensure_ascii=False).encode()


def decoded(payload: bytes) -> tuple[str, Any]:
    """The other way round. Raises ValueError with what is wrong."""
    if len(payload) > _LONGEST:
        raise ValueError(f"{len(payload)} bytes: a value has at most {MAX_VALUE}")
    try:
        found = json_value(payload.decode())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.keys() != {"key", "value"} or not isinstance(found["key"], str):
        raise ValueError('it must be JSON such as {"key": "draft", "value": "hello"}, with each name once')
    _check(found["key"], found["value"])
    return found["key"], found["value"]


def _check(key: str, value: Any) -> None:
    """Raises ValueError with what is wrong."""
    if not 0 < len(key) <= MAX_KEY or "\0" in key:
        raise ValueError(f"key {key[:40]!r}: must have 1 to {MAX_KEY} characters, and no U+0000")
    if _deeper(value, MAX_DEPTH):
        raise ValueError(f"value: lists and objects are nested more than {MAX_DEPTH} deep")
    try:
        key.encode()
        size = len(_json(value))
    except UnicodeEncodeError as error:
        text = f"U+{ord(error.object[error.start]):04X} is half of a character: key and value must be valid Unicode"
        raise ValueError(text) from None
    except ValueError:
        raise ValueError("value: NaN and Infinity are no JSON") from None
    if size > MAX_VALUE:
        raise ValueError(f"value of {size} bytes: at most {MAX_VALUE}")


def _deeper(value: Any, left: int) -> bool:
    """Whether lists and objects are nested more than so deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (left == 0 or any(_deeper(one, left - 1) for one in inner))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
