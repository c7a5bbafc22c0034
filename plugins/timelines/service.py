"""The service itself: every question is asked here, and every permission too, but for publishing (`publishing`).

Over 300 lines: each question, and its permission, is a few lines here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from broker.access import HISTORY
from broker.amqtt import DeviceState, Services, Undecided
from broker.connection import DeviceProblem, NoDevice, Superseded
from broker.packets import ProtocolViolation, ReasonCode, topics
from plugins.timelines.errors import Away, Conflict, Forbidden, NotFound, Problem, Resync, Unprocessable
from plugins.timelines.floors import floor_of
from plugins.timelines.messages import parse_id, rendered, rendered_entry
from plugins.timelines.publishing import Publisher, check_name
from plugins.timelines.tree import level
from plugins.timelines.versions import Versions
from plugins.timelines.who import Who
from storage.errors import StorageError
from storage.interface import Membership, Participation
from storage.records import DeviceKey, MarkRead, Message, Operation

MAX_LIMIT = 500
PAGE_BYTES = 1 << 20
_ROUNDS = 20
_CURSOR = re.compile(r"([ad])\.(\d{1,18})\.(\d{1,18})")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Range:
    """Which messages of a conversation: ``after`` < seq < ``before``, ``since`` <= time < ``until`` (ms); 0 is no bound."""

    after: int = 0
    before: int = 0
    since: int = 0
    until: int = 0
    newest_first: bool = False
    limit: int = 50
    cursor: str = ""


class Timelines:
    """What callers may see and do. ``timeout``: seconds that a write may wait for storage."""

    def __init__(self, server: Services, timeout: float = 10.0) -> None:
        self.server = server
        self.publisher = Publisher(server, timeout)
        self._timeout = timeout

    @property
    def _versions(self) -> Versions:
        return Versions(self.server.storage)

    @property
    def _state(self) -> Participation:
        return self.server.storage

    # --- permission ----------------------------------------------------------------------------------------------------

    async def may_read(self, who: Who, topic: str, action: str = HISTORY) -> bool:
        """Whether the caller may read the topic's messages, or with `SEARCH` search them; where nobody is asked about topics,
        whether it takes part."""
        if who.operator:
            return True
        access = self.server.access
        if access.unruled:
            listed = await access.listed(who.user, action, topic)
            return await self._state.takes_part(who.user, topic) if listed is None else listed
        return who.info is not None and await access.allowed(who.info, action, topic)

    async def readable(self, who: Who, topic: str, action: str = HISTORY) -> None:
        """Raise `NotFound` unless the caller may read the topic (`may_read`), the same whether it exists or not."""
        check_name(topic)
        if topic.startswith("$sync/") or not await self.may_read(who, topic, action):
            raise NotFound(f"conversation {topic[:80]!r}: there is none, or you may not read it")

    # --- history -------------------------------------------------------------------------------------------------------

    async def history(self, who: Who, topic: str, asked: Range) -> dict[str, Any]:
        """A page of a conversation. Expired messages are passed over."""
        await self.readable(who, topic)
        storage = self.server.storage
        newest, low, high = await self._bounds(topic, asked)
        first, last = await self._seen_bounds(who, topic)
        low = max(low, first - 1)
        found: list[Message] = []
        size, more = 0, True
        for _ in range(_ROUNDS):
            wanted = asked.limit - len(found)
            if not wanted or size >= PAGE_BYTES or (high and high <= low + 1):
                break
            page = await storage.read_conversation(
                topic, after=low, before=high, limit=wanted, newest_first=newest, max_bytes=PAGE_BYTES - size
            )
            if not page:
                more = False
                break
            low, high = (low, page[-1].seq) if newest else (page[-1].seq, high)
            size += sum(len(message.payload) for message in page)
            now = self.server.now()
            found += [message for message in page if not message.expired(now)]
        ended = high <= max(low + 1, first) if newest else low >= last or (high and low + 1 >= high)
        shown = await self._versions.shown(topic, found, PAGE_BYTES)
        if len(shown) < len(found):  # later versions are larger: the page ends where they fill it
            last_shown, ended, more = found[len(shown) - 1].seq, False, True
            low, high = (low, last_shown) if newest else (last_shown, high)
        cursor = f"{'d' if newest else 'a'}.{low}.{high}" if more and not ended else None
        return {"messages": shown, "first": first, "last": last, "next": cursor}

    async def _seen_bounds(self, who: Who, topic: str) -> tuple[int, int]:
        """(first, last) kept sequence of a topic that the caller sees."""
        first, last = await self.server.storage.conversation_bounds(topic)
        return max(first, min(last, await floor_of(self.server, who, topic)) + 1), last

    async def _bounds(self, topic: str, asked: Range) -> tuple[bool, int, int]:
        if asked.cursor:
            match = _CURSOR.fullmatch(asked.cursor)
            if match is None:
                raise Unprocessable(f"cursor {asked.cursor[:40]!r} is not one of ours")
            return match[1] == "d", int(match[2]), int(match[3])
        low, high = asked.after, asked.before
        if asked.since:
            low = max(low, await self.server.storage.sequence_at(topic, asked.since) - 1)
        if asked.until:
            until = await self.server.storage.sequence_at(topic, asked.until)
            high = min(high, until) if high else until
        return asked.newest_first, low, high

    async def shown(self, message: Message) -> dict[str, Any]:
        """One message as it is now: with the content of its latest version."""
        return (await self._versions.shown(message.topic, [message], PAGE_BYTES))[0]

    async def versions(self, who: Who, message_id: str) -> list[dict[str, Any]]:
        """Who wrote which version of a message when, the first one first. Each can be read by its id."""
        return await self._versions.of(await self.message(who, message_id))

    async def message(self, who: Who, message_id: str, action: str = HISTORY) -> Message:
        """One message by its id, which the caller may read (`may_read`)."""
        number = parse_id(message_id)
        message = await self.server.storage.read_message(number) if number else None
        if (
            message is None
            or message.expired(self.server.now())
            or not message.seq
            or not await self.may_read(who, message.topic, action)
            or message.seq <= await floor_of(self.server, who, message.topic)
        ):
            raise NotFound(f"message {message_id[:40]!r}: there is none, or you may not read it")
        return message

    async def barred(self, who: Who, message: Message) -> bool:
        """Whether the caller is kept out of a message that it sent itself: by a list of members that it is not on, or as it was
        there before its joining. Access rules bar nobody from what it sent."""
        if who.operator:
            return False
        if await self.server.access.listed(who.user, HISTORY, message.topic) is False:
            return True
        floor = await floor_of(self.server, who, message.topic)
        return bool(floor) and message.seq <= floor

    # --- conversations and read positions ------------------------------------------------------------------------------

    async def conversations(self, who: Who, after: str, limit: int) -> dict[str, Any]:
        """The conversations that the caller takes part in, by name; to an operator who acts for nobody, all."""
        found: list[dict[str, Any]] = []
        for _ in range(_ROUNDS):
            page = await self._memberships(who, after, limit - len(found))
            if not page:
                return {"conversations": found, "next": None}
            after = page[-1].topic
            found += [await self._summary(who, member) for member in page if await self.may_read(who, member.topic)]
            if len(found) >= limit:
                break
        return {"conversations": found, "next": after}

    async def takes_part_in(self, who: Who, after: str, limit: int = 1000) -> list[str]:
        """Topics of conversations that the caller takes part in, with a name > ``after``, by name."""
        return [member.topic for member in await self._state.memberships(who.user, after, limit)]

    async def _memberships(self, who: Who, after: str, limit: int) -> list[Membership]:
        storage = self.server.storage
        if not who.operator or not who.user.startswith("b/"):
            return await self._state.memberships(who.user, after, limit)
        found: list[Membership] = []
        async for topic, first, last in storage.conversations(after=after):
            found.append(Membership(topic, first, last, await storage.read_position(who.user, topic)))
            if len(found) >= limit:
                break
        return found

    async def _summary(self, who: Who, member: Membership) -> dict[str, Any]:
        floor = min(member.last, await floor_of(self.server, who, member.topic))
        member = member._replace(first=max(member.first, floor + 1))
        return {
            "topic": member.topic,
            "first": member.first,
            "last": member.last,
            "position": member.position,
            "unread": await self._unread(member),
            "last_message": await self._last_message(member.topic, floor),
        }

    async def _last_message(self, topic: str, floor: int = 0) -> dict[str, Any] | None:
        last = await self.server.storage.read_conversation(topic, after=floor, limit=1, newest_first=True)
        return rendered(last[0]) if last and not last[0].expired(self.server.now()) else None

    async def topics(self, prefix: str, after: str, limit: int) -> dict[str, Any]:
        """A page of what is right below a prefix of the topics' tree: for the operator."""
        page = await level(self.server.storage, prefix, after, limit)
        topics = [
            {"topic": topic, "first": first, "last": last, "last_message": await self._last_message(topic)}
            for topic, first, last in page.topics
        ]
        return {"levels": page.levels, "topics": topics, "next": page.next}

    async def _unread(self, member: Membership) -> int:
        """Messages past the position that a reader of the history would be given now."""
        base = max(member.position, member.first - 1)
        if base >= member.last:
            return 0
        expired = await self._state.expired_between(member.topic, base, self.server.now())
        return max(0, member.last - base - expired)

    async def position(self, who: Who, topic: str) -> dict[str, Any]:
        """How far the caller has read a conversation, and how much is left."""
        await self.readable(who, topic)
        position = await self._state.read_position(who.user, topic)
        first, last = await self._seen_bounds(who, topic)
        member = Membership(topic, first, last, min(position, last))
        return {"topic": topic, "position": member.position, "last": last, "unread": await self._unread(member)}

    async def mark(self, who: Who, topic: str, seq: int, *, back: bool = False, device: str = "") -> dict[str, Any]:
        """Move the caller's read position and tell its other connected devices."""
        await self.readable(who, topic)
        await self.written([MarkRead(who.user, topic, seq, back)])
        state = await self.position(who, topic)
        event = json.dumps({"event": "read", **state}, ensure_ascii=False).encode()
        self.server.tell_user(who.user, "$sync/events/", event, but=device)
        return state

    # --- devices -------------------------------------------------------------------------------------------------------

    async def devices(self, user: str, after: str, limit: int) -> dict[str, Any]:
        """A user's devices (all users' where ``user`` is empty), with where each stands in its inbox."""
        owner, _, client = after.partition("\0")
        behind = DeviceKey(owner, f"{client}\0") if after else DeviceKey(user, "")
        states = await self.server.device_states(user, behind, limit + 1)
        page = states[:limit]
        more = device_place(page[-1]) if len(states) > limit else None
        heads = {s.key.user: 0 for s in page}
        for name in heads:
            heads[name] = await self.server.storage.inbox_head(name)
        return {"devices": [_device(s, heads[s.key.user]) for s in page], "next": more}

    async def device(self, key: DeviceKey) -> dict[str, Any]:
        """One device."""
        found = await self.server.device_states(key.user, key, 1)
        if not found or found[0].key != key:
            raise NotFound(f"device {key.client_id[:80]!r}: there is none, or it is not yours")
        return _device(found[0], await self.server.storage.inbox_head(key.user))

    async def subscribe(self, who: Who, key: DeviceKey, filter_: str, qos: int) -> None:
        """Subscribe a device as its own SUBSCRIBE would, as far as the caller may."""
        code = await self.carried_out(self.server.readers.subscribe(key, filter_, qos, who.asked))
        shown = f"filter {filter_[:80]!r}"
        if code == ReasonCode.NOT_AUTHORIZED:
            raise Forbidden(f"{shown}: subscribing is not allowed")
        if code == ReasonCode.QUOTA_EXCEEDED:
            most = self.server.settings.mqtt.max_subscriptions
            raise Unprocessable(f"device {key.client_id[:80]!r} has {most} subscriptions, as many as it may")
        if code >= ReasonCode.UNSPECIFIED_ERROR:
            raise Unprocessable(
                _filter_fault(filter_) or f"{shown}: has too many levels, {self.server.settings.mqtt.max_topic_levels} at most"
            )

    async def unsubscribe(self, key: DeviceKey, filter_: str) -> None:
        """Take a filter out of a device."""
        if not await self.carried_out(self.server.readers.unsubscribe(key, filter_)):
            raise NotFound(f"filter {filter_[:80]!r}: the device has none such")

    # --- inboxes -------------------------------------------------------------------------------------------------------

    async def inbox(self, who: Who, key: DeviceKey, after: int, limit: int, channel: str = "") -> dict[str, Any]:
        """A page of what is due to a device after a sequence of its inbox, or of a filter's channel; and all its channels."""
        try:
            page = await self.server.readers.page(key, after, limit, PAGE_BYTES, who.asked, channel)
        except NoDevice as error:
            raise NotFound(str(error)) from error
        return {
            "entries": [rendered_entry(entry) for entry in page.entries],
            "next": page.next,
            "first": page.first,
            "head": page.head,
            "data_epoch": (await self.server.storage.data_epoch()).id,
            "channels": await self.channels(key),
        }

    async def pointers(self, who: Who, after: int | None, limit: int) -> dict[str, Any]:
        """Where the entries of the caller's inbox after a sequence point to, or the last ones. What the caller may not read now
        is None. For all devices at once: claims none, and moves nothing."""
        storage = self.server.storage
        first, head = await storage.inbox_bounds(who.user)
        found = await storage.read_pointers(who.user, max(0, head - limit) if after is None else after, limit)
        topics = {one.topic for one in found if one.topic}
        floors = {topic: await floor_of(self.server, who, topic) for topic in topics if await self.may_read(who, topic)}
        entries = [
            {"offset": one.seq, "topic": one.topic, "seq": one.message_seq}
            if one.topic in floors and not 0 < one.message_seq <= floors[one.topic]
            else {"offset": one.seq, "topic": None, "seq": None}
            for one in found
        ]
        return {"user": who.user, "first": first, "head": head, "entries": entries}

    async def same_data(self, after: int, data_epoch: str, inbox: str) -> None:
        """Raise `Resync` where the offset ``after`` may be of other data than this: of another epoch, of none that was named
        though the data was restored, or past the head. What has it would skip what is stored under those sequences now.
        """
        epoch = await self.server.storage.data_epoch()
        again = "leave the offset out, or begin at 0, and go on with the data_epoch of the answer"
        if data_epoch and data_epoch != epoch.id:
            raise Resync(f"data_epoch {data_epoch[:40]!r}: the data is {epoch.id!r}; {again}", data_epoch=epoch.id)
        if after and epoch.restored and not data_epoch:
            raise Resync(
                f"offset {after}: the data was restored, so say of which data_epoch it is ({epoch.id!r} now), or {again}",
                data_epoch=epoch.id,
            )
        head = await self.server.storage.inbox_head(inbox) if after else 0
        if after > head:
            raise Resync(f"offset {after} is past the head, {head}: {again}", data_epoch=epoch.id)

    async def channels(self, key: DeviceKey) -> list[dict[str, Any]]:
        """The channels of large groups that a device has a place in: their filters, its offsets, and their heads."""
        found = await self.server.readers.channels(key)
        return [{"channel": place.filter, "offset": place.offset, "head": place.head} for place in found]

    async def carried_out(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what `broker.readers` does, its errors told as problems."""
        try:
            return await self.server.within(work, self._timeout)
        except NoDevice as error:
            raise NotFound(str(error)) from error
        except Superseded as error:
            raise Conflict(str(error)) from error
        except DeviceProblem as error:
            raise Unprocessable(str(error)) from error
        except Undecided as error:
            raise Away("storage does not answer; what was asked may still happen", retry_after=5) from error
        except StorageError as error:
            raise Away(str(error), retry_after=5) from error

    async def written(self, operations: list[Operation]) -> None:
        """Commit operations; raises what refused one."""
        try:
            await self.server.commit(operations, self._timeout)
        except Undecided as error:
            raise Away("storage does not answer; what was asked may still happen", retry_after=5) from error
        except StorageError as error:
            raise Away(f"nothing was changed: {error}", retry_after=5) from error
        for operation in operations:
            if operation.error is not None:
                raise Unprocessable(str(operation.error))


def _filter_fault(filter_: str) -> str:
    """What makes this text no topic filter; empty where it is one."""
    try:
        if topics.parse_share(filter_) is None:
            topics.validate_filter(filter_)
    except ProtocolViolation as violation:
        return violation.text
    return ""


def device_place(state: DeviceState) -> str:
    """What devices are listed by."""
    return f"{state.key.user}\0{state.key.client_id}"


def _device(state: DeviceState, head: int) -> dict[str, Any]:
    return {
        "device": state.key.client_id,
        "user": state.key.user,
        "connected": state.connected,
        "durable": state.durable,
        "offset": state.offset,
        "head": head,
        "lag": head - state.offset if state.offset is not None else None,
        "expires_at": state.expires_at or None,
        "subscriptions": [
            {"filter": f, "qos": qos, "since": max(0, min(since, head))} for f, qos, since in state.subscriptions
        ],
    }


def problem_of(error: Exception) -> Problem | None:
    """A problem for an error that is not one of ours alone: storage away."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StorageError):
        return Away(str(error), retry_after=5)
    return None
