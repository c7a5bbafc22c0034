"""History, sync and read positions over plain MQTT: a device publishes JSON to `$sync/request` and is answered (docs/sync.md).

The answer goes to the request's response topic (MQTT 5), or to `$sync/reply/<client id>`, to which only that device may
subscribe. It goes to that one device and is stored nowhere. One that finds nobody listening on `$sync/reply/…` waits a
minute, so that two commands in a row (`mosquitto_pub`, then `mosquitto_sub`) are enough.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from broker.access import SEARCH
from broker.amqtt import Services, Undecided
from broker.hooks import Group, GroupPlugin, Request, RequestPlugin
from broker.packets import Properties, Property, ProtocolViolation, encode_property_body, topics
from broker.sessions import channel_inbox
from plugins.search.service import SORTS
from plugins.search.service import Query as SearchQuery
from plugins.searching import searched
from plugins.sync_answers import Answers
from plugins.sync_fields import Asked, is_id, parsed
from plugins.timelines import Participants, Problem, Timelines, Who
from plugins.timelines.errors import Away, TooMany
from plugins.timelines.keys import checked_sender
from plugins.timelines.service import Range, problem_of
from storage.ending import end
from storage.records import DeviceKey, Message

log = logging.getLogger(__name__)

REPLY = "$sync/reply/"
SYSTEM = "b/tideline"
MAX_WAITING = 32
"""Requests of one device that may wait; further ones are answered with an error."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request. ``answer`` gives the fields of the answer, and raises a `plugins.timelines.Problem`; ``fields`` are
    those that it takes beside ``op`` and ``id``."""

    answer: Callable[[Who, Request, Asked], Awaitable[dict[str, Any]]]
    fields: tuple[str, ...] = ()


def add_requests(context: Any, kinds: Mapping[str, Kind]) -> None:
    """Have more kinds of requests answered, by their ``op``: for another plugin's ``__init__``. Raises ValueError for one that
    there is already."""
    known: dict[str, Kind] = context.shared.setdefault("requests", {})
    if twice := sorted(known.keys() & kinds.keys()):
        raise ValueError(f"requests: there is an op {twice[0]!r} already")
    known.update(kinds)


class SyncRequestsPlugin(GroupPlugin, RequestPlugin):
    """Answers requests, each device's one after the other."""

    @dataclass
    class Config:
        """Settings under ``plugins: requests:``."""

        storage_timeout: float = 10.0
        """Seconds that a write may wait for storage before the device is told."""
        max_devices: int = 1000
        """Devices whose requests are worked on at once."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._participants = Participants.shared(context)
        self._waiting: dict[DeviceKey, deque[Request]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers = Answers()
        kinds = {
            "history": Kind(self._history, ("topic", "after", "before", "since", "until", "order", "limit", "cursor")),
            "message": Kind(self._message, ("message",)),
            "conversations": Kind(self._conversations, ("after", "limit")),
            "sync": Kind(self._sync, ("after", "data_epoch", "limit", "channel")),
            "set-offset": Kind(self._set_offset, ("offset", "device")),
            "device": Kind(self._device, ("device",)),
            "subscribe": Kind(self._subscribe, ("filter", "qos", "device")),
            "unsubscribe": Kind(self._unsubscribe, ("filter", "device")),
            "read": Kind(self._read, ("topic", "position", "back")),
            "position": Kind(self._position, ("topic",)),
            "search": Kind(self._search, ("q", "topic", "topic_filter", "sender", "since", "until", "sort", "limit", "cursor")),
        }
        add_requests(context, kinds)
        self._kinds: Mapping[str, Kind] = context.shared["requests"]

    @property
    def _server(self) -> Services:
        return cast(Services, self.context.server)

    @property
    def _timelines(self) -> Timelines:
        return Timelines(self._server, self.config.storage_timeout)

    def before_ack(self, group: Group) -> None:
        """Note who takes part in what, in the messages' own commit."""
        self._participants.note(group, self)

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up what is being answered."""
        await end(list(self._tasks))

    # --- the way of a request ----------------------------------------------------------------------------------------

    def request(self, request: Request) -> None:
        waiting = self._waiting.get(request.device)
        if waiting is not None:
            if len(waiting) < MAX_WAITING:
                waiting.append(request)
            else:
                self._reply(request, _failure(None, TooMany(f"{MAX_WAITING} requests wait already")))
        elif len(self._waiting) >= self.config.max_devices:
            self._reply(request, _failure(None, TooMany("too many devices ask at once")))
        else:
            self._waiting[request.device] = deque([request])
            task = asyncio.create_task(self._work(request.device), name="requests")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, device: DeviceKey) -> None:
        waiting = self._waiting[device]
        try:
            while waiting:
                self._reply(waiting[0], await self._answer(waiting[0]))
                waiting.popleft()
        finally:
            del self._waiting[device]

    async def _answer(self, request: Request) -> dict[str, Any]:
        fields: Any = None
        try:
            fields = parsed(request.payload)
            asked = Asked(fields)
            kind = self._kinds[asked.operation({name: kind.fields for name, kind in self._kinds.items()})]
            answer = await kind.answer(Who(request.device.user, request.info), request, asked)
        except Undecided:
            return _failure(fields, Away("storage does not answer; what was asked may still happen"))
        except Exception as error:  # whatever happens, the device gets an answer
            problem = problem_of(error)
            if problem is None:
                log.exception("a request of %s failed", request.device.client_id)
                problem = Problem("internal error, see the broker's log")
            return _failure(fields, problem)
        return {**_named(fields), **answer}

    def _reply(self, request: Request, answer: dict[str, Any]) -> None:
        device = request.device
        own = REPLY + device.client_id
        topic = request.response_topic if _fit(request.response_topic) else own
        message = Message(0, topic, SYSTEM, "", 0, min(request.qos, 1), _dumped(answer))
        properties: Properties = {Property.PAYLOAD_FORMAT: 1, Property.CONTENT_TYPE: "application/json"}
        if request.correlation:
            properties[Property.CORRELATION_DATA] = request.correlation
        message.properties = encode_property_body(properties)
        if not self._server.tell(device, message) and topic == own:
            self._answers.keep(device, message, time.monotonic())

    def listening(self, device: DeviceKey, topic: str) -> None:
        if topic == REPLY + device.client_id:
            for message in self._answers.take(device, time.monotonic()):
                self._server.tell(device, message)

    # --- operations --------------------------------------------------------------------------------------------------

    async def _history(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        after, since = asked.number("after", 0), asked.number("since", 0)
        order = asked.one_of("order", ("oldest", "newest"), "oldest" if asked.has("after") or asked.has("since") else "newest")
        wanted = Range(
            after,
            asked.number("before", 0),
            since,
            asked.number("until", 0),
            order == "newest",
            asked.limit(),
            asked.text("cursor", ""),
        )
        return await self._timelines.history(who, asked.text("topic"), wanted)

    async def _message(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return {"message": await self._timelines.shown(await self._timelines.message(who, asked.text("message")))}

    async def _conversations(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._timelines.conversations(who, asked.text("after", ""), asked.limit(100))

    async def _sync(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        """From an explicit offset; the device's own does not move."""
        channel, after = asked.text("channel", ""), asked.number("after")
        inbox = channel_inbox(channel) if channel else request.device.user
        await self._timelines.same_data(after, asked.text("data_epoch", ""), inbox)
        return await self._timelines.inbox(who, request.device, after, asked.limit(), channel)

    async def _set_offset(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        key = DeviceKey(who.user, asked.text("device", request.device.client_id))
        timelines = self._timelines
        return {"offset": await timelines.carried_out(self._server.readers.set_offset(key, asked.number("offset")))}

    async def _device(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._timelines.device(DeviceKey(who.user, asked.text("device", request.device.client_id)))

    async def _subscribe(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        key = DeviceKey(who.user, asked.text("device", request.device.client_id))
        await self._timelines.subscribe(who, key, asked.text("filter"), asked.number("qos", 1, 2))
        return await self._timelines.device(key)

    async def _unsubscribe(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        key = DeviceKey(who.user, asked.text("device", request.device.client_id))
        await self._timelines.unsubscribe(key, asked.text("filter"))
        return await self._timelines.device(key)

    async def _read(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        topic, position = asked.text("topic"), asked.number("position")
        return await self._timelines.mark(who, topic, position, back=asked.flag("back"), device=request.device.client_id)

    async def _position(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        return await self._timelines.position(who, asked.text("topic"))

    async def _search(self, who: Who, request: Request, asked: Asked) -> dict[str, Any]:
        """Within all that the device may search; of one conversation that is named it is told where it may not."""
        named = [asked.text("topic")] if asked.has("topic") else None
        for topic in named or ():
            await self._timelines.readable(who, topic, SEARCH)
        query = SearchQuery(
            asked.text("q", ""),
            topic_filter=asked.text("topic_filter", ""),
            sender=checked_sender(asked.text("sender", "")),
            since=asked.number("since", 0),
            until=asked.number("until", 0),
            sort=asked.one_of("sort", SORTS, "relevance"),
            limit=asked.limit(100, 20),
            cursor=asked.text("cursor", ""),
        )
        return await searched(self._timelines, who, query, named)


def _named(fields: Any) -> dict[str, Any]:
    """What of a request comes back with its answer."""
    if not isinstance(fields, dict):
        return {}
    named = {"op": str(fields.get("op"))[:40]}
    request_id = fields.get("id")
    return {"id": request_id, **named} if is_id(request_id) else named


def _failure(fields: Any, problem: Problem) -> dict[str, Any]:
    return {**_named(fields), "error": {"status": problem.status, "name": problem.name, "detail": problem.detail}}


def _dumped(answer: dict[str, Any]) -> bytes:
    try:
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (UnicodeEncodeError, ValueError):
        return json.dumps(answer, separators=(",", ":")).encode()


def _fit(topic: str) -> bool:
    """Whether this is a topic name."""
    try:
        topics.validate_name(topic)
    except ProtocolViolation:
        return False
    return True
