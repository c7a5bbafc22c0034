"""The plugin that recalls: it looks at each message before it is stored, and has storage take the content out of others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from broker.amqtt import Services
from broker.config import parse_duration
from broker.hooks import Group, GroupPlugin, Refusal
from broker.packets import Property, ReasonCode
from plugins.http import add_router
from plugins.recall.asked import RECALLS, asked, concerns
from plugins.recall.erasure_routes import erasure_router
from plugins.recall.erasures import Erasures
from plugins.recall.moderators import moderators_of
from plugins.recall.routes import make_router
from plugins.recall.service import Recalls
from plugins.sync_fields import Asked
from plugins.sync_requests import Kind, add_requests
from plugins.timelines import Who
from plugins.timelines.messages import hex_id, message_properties
from storage.errors import StorageError
from storage.records import Append, Message

_AT_ONCE = 16
"""Messages that are read at once, with their payloads."""


class Known(NamedTuple):
    """What is asked about a message that is to be recalled."""

    topic: str
    user: str
    time: int
    recalls: bool

    @classmethod
    def of(cls, message: Message) -> Known:
        named = RECALLS.encode() in message.properties and any(
            name == RECALLS for name, _ in message_properties(message).get(Property.USER_PROPERTY, ())
        )
        return cls(message.topic, message.user, message.time, named and not message.recalled)


class RecallPlugin(GroupPlugin):
    """Lets senders, and those who may, recall messages."""

    @dataclass
    class Config:
        """Settings under ``plugins: recall:``."""

        within: float | str = 0
        """For how long after a message its sender may recall it; 0 is for ever. Who may recall those of others always may."""

        def __post_init__(self) -> None:
            seconds = parse_duration(self.within)
            if not isinstance(seconds, int | float) or seconds < 0:
                raise ValueError('within must be a duration, such as 3600 or "2d"; 0 is for ever')
            self.within = float(seconds)

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._moderators = moderators_of(context)
        self.recalls = Recalls(cast(Services, self.context.server))
        self._erasures = Erasures(self.recalls.server)
        add_router(context, make_router(self.recalls))
        add_router(context, erasure_router(self._erasures))
        add_requests(context, {"recall": Kind(self._requested, ("message",))})

    async def on_broker_post_start(self) -> None:
        """Go on with erasures, where clients can connect."""
        if self.recalls.server.listening:
            self._erasures.start()

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """End at the step under way."""
        await self._erasures.stop()

    async def _requested(self, who: Who, request: Any, asked: Asked) -> dict[str, Any]:
        return await self.recalls.recall(who, asked.text("message"), request.device.client_id)

    async def before_ack(self, group: Group) -> None:
        """Refuse what may not be recalled; have the rest recalled in the messages' own commit."""
        recalling = [append for append in group.appends if append.error is None and concerns(append.message)]
        if not recalling:
            return
        wanted: dict[int, list[int]] = {}
        for place, append in enumerate(recalling):
            try:
                wanted[place] = asked(append.message)
            except Refusal as refusal:
                append.error = refusal
        known = await self._known(group, {one for ids in wanted.values() for one in ids})
        for place, ids in wanted.items():
            append = recalling[place]
            try:
                if ids:
                    await self._check(append, ids, known)
                    append.recalls = ids
            except Refusal as refusal:
                append.error = refusal

    async def _known(self, group: Group, ids: set[int]) -> dict[int, Known] | None:
        """What is known of messages, some of which may come before in the group; None where storage does not say."""
        found = {one.message.id: Known.of(one.message) for one in group.appends if one.message.id in ids and one.store}
        missing = sorted(ids - found.keys())
        try:
            for start in range(0, len(missing), _AT_ONCE):
                page = await self.recalls.server.storage.read_messages(missing[start : start + _AT_ONCE])
                found.update({message.id: Known.of(message) for message in page})
        except StorageError:
            return None
        return found

    async def _check(self, append: Append, ids: Iterable[int], known: dict[int, Known] | None) -> None:
        message = append.message
        if known is None:
            raise Refusal("storage does not answer: try again later", ReasonCode.QUOTA_EXCEEDED)
        may: bool | None = None
        for one in ids:
            found = known.get(one)
            foreign = found is None or found.topic != message.topic or one == message.id
            late = found is None or found.user != message.user or self._too_late(found)
            if may is None and (foreign or late):
                may = await self._moderates(message.user, message.topic)
            if foreign or (late and not may):
                raise self._refusal(one, found if not foreign else None, message)
            if found is not None and found.recalls:
                raise Refusal(f"message {hex_id(one)} recalls others: it stays")

    def _too_late(self, found: Known) -> bool:
        within = float(self.config.within)
        return within > 0 and self.recalls.server.wall() - found.time > within * 1000

    def _refusal(self, one: int, found: Known | None, message: Message) -> Refusal:
        if found is not None and found.user == message.user:
            return Refusal(
                f"message {hex_id(one)} is older than {float(self.config.within):g} s: its sender may not recall it any more",
                ReasonCode.NOT_AUTHORIZED,
            )
        return Refusal(
            f"message {hex_id(one)}: there is none in {message.topic[:80]!r} that you may recall", ReasonCode.NOT_AUTHORIZED
        )

    async def _moderates(self, user: str, topic: str) -> bool:
        """The operator and the broker itself may, and whom a plugin names."""
        if user.startswith("b/"):
            return True
        for moderator in self._moderators:
            if await moderator(user, topic):
                return True
        return False
