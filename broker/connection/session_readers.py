"""Devices without a connection: who reads an inbox over HTTP, what it acknowledges, and offsets that are set by hand.

- Reading moves nothing. To acknowledge, a reader claims its device: it becomes a connection of the device as far as the session
  epoch goes, and what an older connection or reader acknowledges changes nothing.
- What is due to a reader is what would be due to the device over MQTT; a device without subscriptions is given the whole inbox.
- A device's channels (`broker.sessions.channel`) are named with its inbox. Each is read and acknowledged on its own.
- An offset that is set takes its place in the order of groups, also under a connected device, which goes on from there.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from amqtt.contexts import Action

from broker.connection.reader_answers import ChannelPlace, Claim, DeviceProblem, InboxPage, NoChannel, NoDevice, Superseded
from broker.connection.reader_steps import Begun, ClaimSession, MoveOffset, Saved
from broker.packets import NO_LOCAL, ReasonCode
from broker.pipeline import Awaited, Operations
from broker.sessions import Member, Session, channel_filter, channel_inbox
from storage.records import (
    DeviceKey,
    InboxEntry,
    Message,
    Subscription,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.access import SessionInfo
    from broker.connection.node import Node

_EXAMINED = 4096
"""Entries that one page looks at, at most, to find some that are due."""

S = TypeVar("S", bound=Awaited)


def _always() -> bool:
    """Whoever awaits the answer does not go away."""
    return True


class SessionReaders:
    """What the HTTP API and the requests do with devices."""

    def __init__(self, server: Node) -> None:
        self._server = server

    async def _durable(self, key: DeviceKey) -> Session:
        session = await self._server.sessions.fetch(key)
        if session is None or not session.durable:
            raise NoDevice(f"device {key.client_id!r}: there is none with a durable session")
        return session

    # --- reading ---------------------------------------------------------------------------------------------------

    async def claim(self, key: DeviceKey, *, takeover: bool = False) -> Claim:
        """Make the caller the device's present connection, and the device where there is none.

        An MQTT connection keeps the device unless ``takeover``, which closes it.
        """
        sessions = self._server.sessions
        session = await sessions.fetch(key)
        if session is not None and session.connection is not None:
            if not takeover:
                return Claim(0, session.offset if session.durable else 0)
            session.connection.disconnect(ReasonCode.SESSION_TAKEN_OVER, "taken over by a reader over HTTP")
            session = sessions.get(key)
        if session is not None:
            step = ClaimSession(self._server, session, fresh=False)
            await self._submitted(step)
            return Claim(step.epoch, session.offset)
        async with self._beginning(key.user):
            session, fresh = await sessions.fetch(key), False
            if session is None:
                session, fresh = sessions.create(key), True
            step = ClaimSession(self._server, session, fresh=fresh)
            await self._submitted(step)
        if fresh:
            self._server.claimed(key)
        return Claim(step.epoch, session.offset)

    async def channels(self, key: DeviceKey) -> list[ChannelPlace]:
        """The channels that the device has a place in."""
        session = await self._server.sessions.fetch(key)
        found: list[ChannelPlace] = []
        if session is None:
            return found
        for member in session.members:
            offset = session.window.offset(member.position, member.channel)
            head = await self._server.storage.inbox_head(member.channel)
            found.append(ChannelPlace(channel_filter(member.channel), offset, head))
        return sorted(found)

    @staticmethod
    def _member(session: Session | None, key: DeviceKey, channel: str) -> Member:
        member = None if session is None or session.channels is None else session.channels.get(channel_inbox(channel))
        if member is None:
            raise NoChannel(f"device {key.client_id!r} has no filter for a large group {channel[:80]!r}")
        return member

    async def page(
        self, key: DeviceKey, after: int, limit: int, max_bytes: int, info: SessionInfo | None, channel: str = ""
    ) -> InboxPage:
        """Entries with sequence > ``after`` that are due to the device, read from storage. Moves nothing.

        ``info`` is who is asked for the right to receive; None for whoever may receive everything. ``channel``: of that
        filter's channel, instead of the inbox; raises `NoChannel`.
        """
        reader, inbox = self._server.storage, key.user
        if channel:
            inbox = self._member(await self._server.sessions.fetch(key), key, channel).channel
        first, head = await reader.inbox_bounds(inbox)
        found: list[InboxEntry] = []
        at, size = min(after, head), 0
        start = at
        while at < head and len(found) < limit and size < max_bytes and at - start < _EXAMINED:
            entries = await reader.read_inbox(inbox, at, min(limit, head - at), max_bytes)
            if not entries:
                at = head  # retention removed what there was
                break
            for entry in entries:
                if len(found) >= limit or (found and size >= max_bytes):
                    break
                at = entry.seq
                if await self._due(key, entry, info, channel):
                    found.append(entry)
                    size += len(entry.message.payload) if entry.message is not None else 0
        return InboxPage(found, at, first, head)

    async def _due(self, key: DeviceKey, entry: InboxEntry, info: SessionInfo | None, channel: str) -> bool:
        message = entry.message
        if message is None or message.expired(self._server.time.now()):
            return False
        if entry.target:
            if entry.target != key.client_id:
                return False
        elif not await self._granted(key, entry.seq, message, channel):
            return False
        if info is None:
            return True
        if not await self._server.access.allowed(info, Action.RECEIVE, message.topic):
            return False
        hidden = await self._server.subscriptions.events.hidden(key.user, message.topic)
        return not hidden or message.seq > hidden

    async def _granted(self, key: DeviceKey, seq: int, message: Message, channel: str) -> bool:
        session = await self._server.sessions.fetch(key)
        if session is None or not session.subscriptions.keys() - session.shared_filters:
            return not channel
        own = message.device == key.client_id and message.user == key.user
        granted = self._server.trie.match(message.topic).granted(session)
        due = self._member(session, key, channel).due(granted, seq) if channel else [s for s in granted if s.since < seq]
        return any(not (own and s.options & NO_LOCAL) for s in due)

    @asynccontextmanager
    async def watching(self, user: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever the user's inbox has news."""
        watched = self._server.delivery.watched
        event = asyncio.Event()
        watched.setdefault(user, set()).add(event)
        cluster = self._server.cluster
        try:
            if cluster is not None:
                cluster.watch(user)
            yield event
        finally:
            if cluster is not None:
                cluster.unwatch(user)
            events = watched[user]
            events.discard(event)
            if not events:
                del watched[user]

    # --- acknowledging -----------------------------------------------------------------------------------------------

    async def current(self, key: DeviceKey, epoch: int) -> bool:
        """Whether a claim still holds."""
        session = await self._server.sessions.fetch(key)
        return session is not None and session.epoch == epoch and session.connection is None

    async def acknowledge(self, key: DeviceKey, epoch: int, through: int, channel: str = "") -> int:
        """Everything up to ``through`` is done, of the inbox or a channel: the offset, once it is durable. It never goes back.

        Raises `NoDevice`, `NoChannel`, `Superseded`, and `DeviceProblem` for a sequence past the head.
        """
        session = await self._durable(key)
        inbox = self._member(session, key, channel).channel if channel else key.user
        head = await self._server.storage.inbox_head(inbox)
        current = await self.current(key, epoch)
        session = await self._durable(key)
        if not current:
            raise Superseded(f"device {key.client_id!r}: a newer connection or reader has it now")
        if through > head:
            raise DeviceProblem(f"offset {through} is past the head of {'the channel' if channel else 'the inbox'}, {head}")
        member = self._member(session, key, channel) if channel else None
        if member is not None:
            session.window.settle(through, member.channel)
            member.acknowledged(through)
        else:
            session.window.settle(through)
            session.cursor = max(session.cursor, through)
        saved = Saved()
        self._server.delivery.save(session).then.append(saved)
        await saved.future
        return session.offset if member is None else session.window.offset(member.position, member.channel)

    async def set_offset(self, key: DeviceKey, offset: int) -> int:
        """Make the device go on after ``offset``; the offset, once that is durable.

        Set back, it is given everything after it again that its filters match, also from before it subscribed. Raises
        `NoDevice`, and `DeviceProblem` for an offset past the head.
        """
        await self._durable(key)
        head = await self._server.storage.inbox_head(key.user)
        if offset > head:
            raise DeviceProblem(f"offset {offset} is past the head of the inbox, {head}")
        async with self._beginning(key.user):
            step = MoveOffset(self._server, await self._durable(key), offset)
            return (await self._submitted(step)).offset

    # --- devices -----------------------------------------------------------------------------------------------------

    async def forget(self, key: DeviceKey) -> None:
        """End the device's session, connected or not; returns once that is durable. Raises `NoDevice`."""
        session = await self._server.sessions.fetch(key)
        if session is None:
            raise NoDevice(f"device {key.client_id!r}: there is none")
        self._server.sessions.remove(session)
        await self._submitted(Operations())

    async def subscribe(self, key: DeviceKey, filter_: str, qos: int, info: SessionInfo | None) -> int:
        """Subscribe a durable device as its own SUBSCRIBE would; SUBACK's code. ``info`` is whom the ACL is asked about, if
        anybody. Raises `NoDevice`."""
        return await self.subscribe_session(await self._durable(key), filter_, qos, info)

    async def subscribe_session(self, session: Session, filter_: str, qos: int, info: SessionInfo | None) -> int:
        """The same for any session, once it is durable where the session is."""
        codes: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        wanted = [Subscription(filter_, qos)]
        asking = self._server.subscriptions.subscribe(session, wanted, info, _always, codes.set_result)
        if asking is not None:
            await asking
        return (await asyncio.shield(codes))[0]

    async def unsubscribe(self, key: DeviceKey, filter_: str) -> bool:
        """Take a filter out of a durable device; False where it has none such. Raises `NoDevice`."""
        codes: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._server.subscriptions.unsubscribe(await self._durable(key), [filter_], _always, codes.set_result)
        return (await asyncio.shield(codes))[0] == ReasonCode.SUCCESS

    @asynccontextmanager
    async def _beginning(self, user: str) -> AsyncIterator[None]:
        """Nothing is removed from the inbox, or of what it points to; also not before storage has what was submitted."""
        retention_lock = self._server.retention_lock
        await retention_lock.begin(user)
        try:
            yield
        except asyncio.CancelledError:  # the caller waits no longer; what it submitted is durable before this is
            self._server.pipeline.submit(Begun(retention_lock))
            raise
        except BaseException:
            retention_lock.begun()
            raise
        else:
            retention_lock.begun()

    async def _submitted(self, step: S) -> S:
        self._server.pipeline.submit(step)
        await step.finished
        return step
