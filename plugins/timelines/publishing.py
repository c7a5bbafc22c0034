"""Publishing for a caller, through the pipeline that MQTT uses: 1. what can be, 2. what may be, 3. stored, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from amqtt.contexts import Action

from broker.amqtt import Services, Undecided
from broker.hooks import HookFailed, Refusal
from broker.packets import ProtocolViolation, ReasonCode, topics
from broker.publication import Outgoing, Publication
from plugins.timelines.errors import Away, Conflict, Forbidden, Problem, TooLarge, TooMany, Unprocessable
from plugins.timelines.messages import content_properties, hex_id
from plugins.timelines.who import Who
from storage.errors import IdempotencyConflict, MessageRefused, StorageError


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to publish. ``expiry`` is in seconds, 0 for never; ``key`` makes it happen once (docs/mqtt.md)."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry: int = 0
    content_type: str | None = None
    properties: tuple[tuple[str, str], ...] = ()
    text: bool = False
    response_topic: str | None = None
    correlation: bytes = b""
    device: str = ""
    key: str = ""


class Receipt(NamedTuple):
    """What was stored: ``shown`` has its id, topic, sequence and time; ``repeated``: stored earlier, under the same key."""

    shown: dict[str, Any]
    repeated: bool


class Publisher:
    """Publishes for callers. ``timeout``: seconds that storage is waited for."""

    def __init__(self, server: Services, timeout: float) -> None:
        self._server = server
        self._timeout = timeout

    async def publish_all(self, who: Who, drafts: Sequence[Draft]) -> list[Receipt | Problem | Undecided]:
        """Publish messages in their order: what came of each. One that is refused keeps none of the others back."""
        outcomes: list[Receipt | Problem | Undecided | None] = [await self._refusal(who, draft) for draft in drafts]
        made = {place: self._publication(who, drafts[place]) for place, refused in enumerate(outcomes) if refused is None}
        done = await self._server.append_all_within(list(made.values()), self._timeout)
        for place, found in zip(made, done, strict=True):
            outcomes[place] = _problem_of(found) if isinstance(found, BaseException) else await self._receipt(found)
        return [outcome for outcome in outcomes if outcome is not None]

    async def prepared(self, who: Who, draft: Draft) -> Publication:
        """What `publish_all` would publish. Raises `Problem`."""
        refused = await self._refusal(who, draft)
        if refused is not None:
            raise refused
        return self._publication(who, draft)

    async def _refusal(self, who: Who, draft: Draft) -> Problem | None:
        try:
            self._check(draft)
            if who.asked is not None and not await self._server.access.allowed(who.asked, Action.PUBLISH, draft.topic):
                raise Forbidden(f"publishing to {draft.topic[:80]!r} is not allowed")
            _properties(draft)
        except Problem as problem:
            return problem
        return None

    def _publication(self, who: Who, draft: Draft) -> Publication:
        now = self._server.now()
        message = Outgoing(draft.topic, who.user, draft.device, draft.qos, draft.payload, draft.retain)
        message.properties = _properties(draft)
        message.expires = now + draft.expiry * 1000 if draft.expiry else 0
        publication = Publication(message, retain=draft.retain, idempotency_key=draft.key)
        publication.publisher = who.asked
        publication.idempotency_at = now
        window = self._server.settings.mqtt.idempotency_window
        publication.idempotency_until = now + int(window * 1000) if draft.key else 0
        return publication

    async def _receipt(self, done: Publication) -> Receipt:
        message = done.message
        receipt = {"id": hex_id(message.id), "topic": message.topic, "seq": message.seq, "time": message.time}
        if done.original is None:
            return Receipt(receipt, False)
        first = await self._server.storage.read_message(done.original[0])
        receipt |= {"id": hex_id(done.original[0]), "seq": done.original[1], "time": first.time if first else None}
        return Receipt(receipt, True)

    def _check(self, draft: Draft) -> None:
        check_name(draft.topic)
        if draft.response_topic is not None:
            check_name(draft.response_topic, "response_topic")
        mqtt = self._server.settings.mqtt
        if why := self._server.access.closed(draft.topic):
            raise Forbidden(f"topic {draft.topic[:80]!r} {why}")
        if draft.topic.count("/") >= mqtt.max_topic_levels:
            raise Unprocessable(f"topic: more than {mqtt.max_topic_levels} levels")
        if draft.retain and not mqtt.retain_available:
            raise Unprocessable("retain: retained messages are turned off")
        if len(draft.payload) + len(draft.topic.encode()) + 16 > mqtt.max_packet_size:
            raise TooLarge(f"payload of {len(draft.payload)} bytes: packets have at most {mqtt.max_packet_size}")


def _properties(draft: Draft) -> bytes:
    return content_properties(draft.content_type, list(draft.properties), draft.text, draft.response_topic, draft.correlation)


def _problem_of(error: BaseException) -> Problem | Undecided:
    """An error of storage, or of a plugin, as the caller is told."""
    if isinstance(error, Undecided):
        return error
    if isinstance(error, IdempotencyConflict):
        return Conflict(str(error))
    if isinstance(error, HookFailed):  # no fault of the message's
        return Away(f"nothing was stored: {error}", retry_after=5)
    if isinstance(error, Refusal) and error.code == ReasonCode.NOT_AUTHORIZED:
        return Forbidden(str(error))
    if isinstance(error, Refusal) and error.code == ReasonCode.QUOTA_EXCEEDED:
        return TooMany(str(error))
    if isinstance(error, MessageRefused):
        return Unprocessable(f"the message was refused: {error}")
    if isinstance(error, StorageError):
        return Away(f"nothing was stored: {error}", retry_after=5)
    raise error


def check_name(topic: str, kind: str = "topic") -> None:
    """Raise `Unprocessable` unless ``topic`` is a topic name; ``kind`` says which in the text."""
    try:
        topics.validate_name(topic)
        topic.encode()
    except ProtocolViolation as violation:
        raise Unprocessable(violation.text if kind == "topic" else f"{kind}: {violation.text}") from violation
    except UnicodeEncodeError as error:
        raise Unprocessable(f"{kind}: not valid Unicode") from error
