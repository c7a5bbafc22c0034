"""The plugin: what the broker asks and tells, and what goes on beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from amqtt.plugins.base import BaseTopicPlugin

from broker.access import CONVERSATIONS, RECEIVE
from broker.amqtt import Services, TidelineContext, Undecided
from broker.hooks import Group, GroupPlugin, Refusal, SessionPlugin
from broker.packets import ProtocolViolation, topics
from broker.rate_limited_log import RateLimitedLog
from plugins.conversations import roles
from plugins.conversations.erasing import Erasing
from plugins.conversations.listing import Listing
from plugins.conversations.model import CHANNEL
from plugins.conversations.requests import Requests
from plugins.conversations.routes import make_router
from plugins.conversations.service import Conversations, Limits
from plugins.conversations.values import Values
from plugins.http import add_router
from plugins.quiet import add_quiet
from plugins.recall.moderators import add_moderator
from plugins.recall.records import add_eraser
from plugins.sync_requests import add_requests
from plugins.timelines import Floors, Problem
from plugins.timelines.errors import Away
from storage.ending import end
from storage.errors import StorageError
from storage.records import Append, DeviceKey

log = logging.getLogger(__name__)
_limited = RateLimitedLog(log, 60.0)

_EVERY = 60.0
"""Seconds between two looks for changes of membership that nobody brought to their end; those that are older than this are."""
_AGAIN = 10.0
"""Seconds until the next try where storage was away."""
_EVERYTHING = 1 << 62
"""A sequence past all there are."""
_AT_ONCE = 16
"""Devices that are looked at together, of those that have come."""


class ConversationsPlugin(GroupPlugin, SessionPlugin, BaseTopicPlugin, Floors):
    """Conversations with members."""

    guards = CONVERSATIONS

    @dataclass
    class Config:
        """Settings under ``plugins: conversations:``."""

        prefix: str = "conv/"
        """What the topics of conversations begin with. Below it nobody may do anything but members."""
        qos: int = 1
        """The quality of service with which the devices of members follow."""
        max_members: int = 1000
        """Of a group. Channels have as many as come."""
        max_conversations: int = 1000
        """Of a user. They do not count toward ``mqtt.max_subscriptions``."""
        max_values: int = 1000
        """Drafts, settings and the like, of a user."""
        storage_timeout: float = 10.0
        """Seconds that a write may wait for storage before the caller is told."""

        def __post_init__(self) -> None:
            try:
                topics.validate_name(self.prefix)
            except ProtocolViolation as violation:
                raise ValueError(f"prefix: {violation.text}") from violation
            if not self.prefix.endswith("/") or self.prefix.startswith("$"):
                raise ValueError(f"prefix {self.prefix!r} must end with / and not begin with $, such as conv/")
            if self.qos not in (0, 1, 2):
                raise ValueError(f"qos {self.qos}: must be 0, 1 or 2")
            if self.max_members < 2 or self.max_conversations < 1 or self.max_values < 0 or self.storage_timeout <= 0:
                raise ValueError(
                    "max_members must be 2 or more, max_conversations 1 or more, max_values 0 or more, storage_timeout above 0"
                )

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        config = self.config
        limits = Limits(config.max_members, config.max_conversations)
        self.service = Conversations(self._server, config.prefix, limits, config.storage_timeout, config.qos)
        self.listing = Listing(self.service, config.max_conversations)
        self.values = Values(self.service.members, config.prefix, config.max_values, config.storage_timeout)
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[DeviceKey] = set()
        """Those that have come while storage did not answer."""
        add_router(context, make_router(self.service, self.listing, self.values))
        add_moderator(context, self._moderates)
        add_quiet(context, self._muted)
        add_eraser(context, "conversations", Erasing(self.service.members, self.values))
        add_requests(context, Requests(self.service, self.listing, self.values).kinds())

    @property
    def _server(self) -> Services:
        return cast(Services, self.context.server)

    async def on_broker_post_start(self) -> None:
        """Bring to its end what an earlier run left half done, and look for more from time to time."""
        channels = f"{self.config.prefix}{CHANNEL}/any"
        self.service.channels_fan_out = self._server.read_fanout_of(channels)
        self.service.members.joined()
        self._begin(self._finish(), "conversations")

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up what is under way; it is brought to its end later."""
        await end(list(self._tasks))

    def _begin(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- membership changes that were not brought to their end ---------------------------------------------------------

    async def _finish(self) -> None:
        age, pause = 0, _EVERY
        while True:
            try:
                mine = await self._server.may("conversations")  # else another node looks
                if mine and (done := await self.service.members.finish(self._server.wall() - age)):
                    log.info("%d change%s of membership brought to the end", done, "s" * (done != 1))
                age, pause = int(_EVERY * 1000), _EVERY
            except (Problem, StorageError, Undecided) as error:
                log.warning("changes of membership wait for storage: %s", error)
                pause = _AGAIN
            await asyncio.sleep(pause)

    # --- a client has come -----------------------------------------------------------------------------------------------

    def opened(self, device: DeviceKey) -> None:
        """Its device follows what its user is a member of."""
        if device.user.startswith(("u/", "c/")):
            self._begin(self._follow(device), "follow conversations")

    async def _follow(self, device: DeviceKey) -> None:
        """Tried again while storage is away, also for one that has gone: what is said there meanwhile is due to it."""
        while not await self._followed(device):
            if device in self._waiting:  # from an earlier connection
                return
            self._waiting.add(device)
            await asyncio.sleep(_AGAIN)
            self._waiting.discard(device)

    async def _followed(self, device: DeviceKey) -> bool:
        """Whether there is no more to do."""
        async with self._room:
            try:
                await self._follow_all(device)
            except (Away, StorageError, Undecided) as error:
                _limited.warning("client %r: its conversations wait for storage: %s", device.client_id, error, key=device)
                return False
            except Problem as problem:
                _limited.warning(
                    "client %r: its conversations wait until it comes again: %s", device.client_id, problem, key=device
                )
        return True

    async def _follow_all(self, device: DeviceKey) -> None:
        """What it follows and should not was left by a change that came at the same moment."""
        members = self.service.members
        wanted = set(await members.store.of(device.user, self.config.max_conversations + 1))
        had = {filter_ for filter_ in self._server.following.filters(device) if self.governs(filter_)}
        for topic in sorted(wanted | had):
            if await self.ask(device.user, RECEIVE, topic):
                if topic not in had:
                    await members.follow_one(device, topic)
            elif topic in had:
                await members.settle(topic, device.user)

    # --- what the broker asks (`broker.access.MembersOnly`) --------------------------------------------------------------

    def governs(self, topic: str) -> bool:
        return topic.startswith(self.config.prefix)

    def known(self, user: str, action: str, topic: str) -> bool | None:
        if self.values.is_one(topic):
            return topic == self.values.topic(user)
        found = self.service.members.known.get((user, topic))
        return None if found is None else roles.may(found[0], action)

    async def ask(self, user: str, action: str, topic: str) -> bool:
        if self.values.is_one(topic):
            return topic == self.values.topic(user)
        return roles.may(await self.service.members.of(user, topic), action)

    async def _moderates(self, user: str, topic: str) -> bool:
        """See `plugins.recall.moderators.Moderator`: owners and admins may."""
        if not self._says(topic):
            return False
        return roles.moderates(await self.service.members.of(user, topic))

    async def _muted(self, user: str, topic: str) -> bool:
        """See `plugins.quiet.Quiet`."""
        if not self._says(topic):
            return False
        member = await self.service.members.of(user, topic)
        return member is not None and member.muted

    async def floor(self, user: str, topic: str) -> int:
        """As of `plugins.timelines.Floors`."""
        if not self._says(topic):
            return 0
        member = await self.service.members.of(user, topic)
        return 0 if member is None else member.floor

    def hidden_now(self, user: str, topic: str) -> int:
        """See `broker.access.Hiding`."""
        found = self.service.members.known.get((user, topic)) if self._says(topic) else None
        return 0 if found is None or found[0] is None else found[0].floor

    async def hidden(self, user: str, topic: str) -> int:
        """See `broker.access.Hiding`. From who is no member everything is hidden: its inbox would keep it until it is one."""
        return await self.floor(user, topic) if await self.ask(user, RECEIVE, topic) else _EVERYTHING

    def before_ack(self, group: Group) -> Awaitable[None] | None:
        """Note whom messages mention, and what users' own values are, in the messages' own commit."""
        own = group.below(self.values.prefix)
        told = [append for append in group.with_properties if self._says(append.message.topic)]
        return self._note(own, told, group) if own or told else None

    def _says(self, topic: str) -> bool:
        """Whether members say something to each other there."""
        return self.governs(topic) and not self.values.is_one(topic)

    async def _note(self, own: Sequence[Append], told: Sequence[Append], group: Group) -> None:
        for append in own:
            if append.error is None and append.store:
                group.operations.extend(await self.values.changed(append, group.operations))
        for append in told:
            if append.error is None and append.store:
                try:
                    group.operations.extend(await self.listing.mentions(append))
                except Refusal as refusal:
                    append.error = refusal
