"""The life of a session: opened, taken over, put away in storage and fetched from there, ended.

Every change takes its place in the order of groups, as a step; the state in storage follows in the same order. What happens
to a session that nobody is connected to, after a time or a crash, is decided in `deadlines`.

- One connection per device at a time; a newer one takes over, and the older is closed at once [MQTT-3.1.4-3].
- A will is durable before its CONNACK, and is published through the pipeline in the same group that forgets it: once, also
  when the broker is killed in between.
- A will is published when its connection ends without DISCONNECT, or a clean start ends the session; one with a delay, when
  that has passed [MQTT-3.1.3-9]. A connection that was never accepted has none [MQTT-3.1.2-8]. One that its client may not
  publish any more by then is forgotten.
- Only who is connected is held in memory, and for some seconds who was: see `Sessions`.

Over 300 lines: the life of a session is told in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

from broker.access import PUBLISH, info_of
from broker.packets import SHARE, ReasonCode
from broker.sessions import wills
from broker.sessions.channel import member_key
from broker.sessions.deadlines import Deadlines
from broker.sessions.ordered import Ordered
from broker.sessions.session import Session
from broker.sessions.steps import EndStep, Left, Opened, OpenStep, PutAway, closing
from broker.sessions.timeline import DEVICE, Timeline, is_channel, is_group, member_of
from storage.records import (
    CloseSession,
    Device,
    DeviceKey,
)

if TYPE_CHECKING:
    from broker.access import SessionInfo
    from broker.sessions.link import Link
    from broker.sessions.ports import Node

log = logging.getLogger(__name__)

IDLE = 5.0
"""Seconds for which a session stays in memory after its last use."""
_LOOK = 1.0
"""Seconds between two looks for such sessions."""
_AT_ONCE = 2000
_GIVEN_UP = 4096
"""Bytes counted for an opening whose client has gone, besides the names: steps, session and operations, measured."""


class Read(NamedTuple):
    """A device as storage had it; None where it had none."""

    device: Device | None


class _ByDevice:
    """Sessions by device, and their keys in order: by user and client id, and of each client id by user."""

    __slots__ = ("_named", "in_order", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[DeviceKey, Session] = {}
        self.in_order = Ordered()
        self._named: dict[str, DeviceKey | Ordered] = {}
        """By client id. Most are one user's, and have no list."""

    def put(self, session: Session) -> None:
        key = session.key
        if key not in self.sessions:
            self.in_order.add(key)
            named = self._named.get(key.client_id)
            if named is None:
                self._named[key.client_id] = key
            elif isinstance(named, Ordered):
                named.add(key)
            else:
                several = self._named[key.client_id] = Ordered()
                several.add(named)
                several.add(key)
        self.sessions[key] = session

    def remove(self, key: DeviceKey) -> None:
        del self.sessions[key]
        self.in_order.remove(key)
        named = self._named[key.client_id]
        if isinstance(named, Ordered):
            named.remove(key)
            if named:
                return
        del self._named[key.client_id]

    def named(self, client_id: str, user: str) -> Iterator[DeviceKey]:
        """The keys with this client id, from a user on. None may come or go meanwhile."""
        named = self._named.get(client_id)
        if named is None:
            return iter(())
        if isinstance(named, Ordered):
            return named.since(DeviceKey(user, client_id))
        return iter((named,) if named.user >= user else ())


class Sessions:
    """By device: who is connected, clean sessions too, and who was until a moment ago. Everybody else is in storage alone.

    A session is put away some seconds after its last use, once all that was submitted for it is durable; `fetch` brings it
    back. So what is not in memory is in storage as it is.
    """

    def __init__(self, server: Node) -> None:
        self._server = server
        self._by_device = _ByDevice()
        self._sessions = self._by_device.sessions
        self._absent = 0
        """How many are in storage alone."""
        self._loading: dict[DeviceKey, asyncio.Task[Session | None]] = {}
        self._ending: dict[DeviceKey, tuple[asyncio.Future[None], CloseSession]] = {}
        """Sessions that have ended, and are not out of storage yet; by the last step that takes one out."""
        self._idle: dict[DeviceKey, float] = {}
        """Durable sessions that nobody is connected to, by their last use, the oldest first."""
        self._putting_away = False
        self._opening: dict[Link, OpenStep] = {}
        """Connections whose sessions are not stored yet, while their clients wait for that."""
        self._given_up = 0
        """Bytes that wait to be stored for sessions whose clients have gone without a CONNACK."""
        self.deadlines = Deadlines(server, self)

    def __len__(self) -> int:
        """All there are, in memory or not."""
        return len(self._sessions) + self._absent

    def __iter__(self) -> Iterator[Session]:
        """Those in memory."""
        return iter(self._sessions.values())

    def get(self, key: DeviceKey) -> Session | None:
        """The device's session, where it is in memory: of whoever is connected it is."""
        return self._sessions.get(key)

    def named(self, client_id: str) -> list[Session]:
        """The sessions in memory with this client id, one per user that has one."""
        return list(self.named_since(client_id, ""))

    def named_since(self, client_id: str, user: str) -> Iterator[Session]:
        """The same from a user on, by user. None may come or go meanwhile."""
        return map(self._sessions.__getitem__, self._by_device.named(client_id, user))

    def of(self, user: str) -> list[Session]:
        """The sessions in memory of one user."""
        return list(takewhile(lambda session: session.key.user == user, self.since(DeviceKey(user, ""))))

    def since(self, key: DeviceKey) -> Iterator[Session]:
        """The sessions in memory from a key on, by user and client id. None may come or go meanwhile."""
        return map(self._sessions.__getitem__, self._by_device.in_order.since(key))

    def ending(self, key: DeviceKey) -> bool:
        """Whether storage has a session yet that has ended."""
        return key in self._ending

    # --- start and end -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what is stored: the filters of everybody, and whole only who takes part in a shared subscription."""
        server = self._server
        self._absent = await server.storage.device_count()
        channels, reading = server.channel_members, set[str]()
        groups: list[DeviceKey] = []
        members: dict[DeviceKey, None] = {}
        async for page in server.storage.subscribed():
            for user, client_id, filter_ in page:
                if is_channel(user):
                    channels.member_stored(user, client_id, filter_)
                    reading.add(f"{user}{DEVICE}{client_id}")
                elif server.cluster is not None and (is_group(user) or filter_.startswith(SHARE)):
                    server.shared_groups.member_changed(DeviceKey(user, client_id), filter_, gone=False)
                elif is_group(user):
                    groups.append(DeviceKey(user, client_id))
                elif filter_.startswith(SHARE):
                    members[DeviceKey(user, client_id)] = None
                else:
                    server.trie.add_aside(filter_, member_of(user, client_id))
                    channels.device_stored(DeviceKey(user, client_id), filter_)
        self._absent -= len(reading)
        if made := await channels.complete(server.storage):
            log.info("%d devices read from channels what went to their users' inboxes until now", made)
        for key in groups:
            device = await server.storage.device(key)
            if device is not None:
                self._absent -= 1
                server.shared_groups.load(device)
        for key in members:
            await self.fetch(key)

    def start(self) -> None:
        """The pipeline runs: watch the deadlines, and put away who is idle."""
        self.deadlines.start()
        self._look_for_idle()

    async def stop(self) -> None:
        """Watch no longer."""
        await self.deadlines.stop()

    # --- in memory or not ----------------------------------------------------------------------------------------------

    async def fetch(self, key: DeviceKey, read: Read | None = None) -> Session | None:
        """The device's session, from storage where it is not in memory; it stays for some seconds. Raises `StorageError`.

        ``read`` is what was read of it a moment ago, since when only this node may have changed it.
        """
        while (session := self._sessions.get(key)) is None:
            if (ending := self._ending.get(key)) is not None:
                await asyncio.shield(ending[0])
                continue
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.create_task(self._read(key, read), name="load session")
            if await asyncio.shield(loading) is None:
                return self._sessions.get(key)
        if self._idle.pop(key, None) is not None:
            self._idle[key] = self._server.clock.now()
        return session

    def known(self, key: DeviceKey) -> bool:
        """Whether `get` says all there is of a device, so that `fetch` would read nothing: its session is in memory, or there
        is none. In a cluster another node may have it."""
        if key in self._ending or key in self._loading:
            return False
        return key in self._sessions or not self._absent

    async def latest(self, key: DeviceKey) -> Session | None:
        """The same, as storage has it now. In a cluster another node may have had the device, or have changed it, since it was
        read: where nobody is connected to it here, it is read again."""
        if self._server.cluster is not None:
            await self.refresh(key)
        return await self.fetch(key)

    async def refresh(self, key: DeviceKey) -> bool:
        """Keep nothing of a device here that nobody is connected to; whether there was nothing in the first place."""
        session = self._sessions.get(key)
        if session is None:
            return key not in self._ending
        if session.connection is None:
            await self._server.pipeline.passed()
            self.forget(key)
        return False

    async def _read(self, key: DeviceKey, read: Read | None) -> Session | None:
        server = self._server
        try:
            device = await server.storage.device(key) if read is None else read.device
            channels: list[tuple[Timeline, Device]] = []
            for channel in server.channels.serving(device.subscriptions if device is not None else ()):
                member = await server.storage.device(member_key(channel, key))
                if member is not None:
                    channels.append((channel, member))
        finally:
            del self._loading[key]
        if device is None or key in self._sessions or key in self._ending:
            return self._sessions.get(key)
        session = Session.load(device, server.settings.mqtt.inflight_window, channels)
        self._by_device.put(session)
        self._absent -= 1
        server.subscriptions.load(session)
        shared = server.storage.cluster
        session.elsewhere = shared is not None and device.node not in (0, shared.me.token)
        if not session.elsewhere:  # else it has no deadlines
            self.deadlines.anchor(session)
        self._idle[key] = server.clock.now()
        return session

    def _look_for_idle(self) -> None:
        server = self._server
        server.clock.after(_LOOK, self._look_for_idle)
        before = server.clock.now() - IDLE
        found = [(key, at) for key, at in islice(self._idle.items(), _AT_ONCE) if at <= before]
        if found and not self._putting_away:
            self._putting_away = True
            server.pipeline.submit(PutAway(self, found))

    def put_away(self, found: list[tuple[DeviceKey, float]]) -> None:
        """All that was submitted for these when they had not been used for a while is durable: keep them no longer."""
        self._putting_away = False
        for key, at in found:
            session = self._sessions.get(key)
            if session is None or self._idle.get(key) != at:
                continue
            kept = session.shared_filters and self._server.cluster is None
            if kept or session.in_use or self._server.delivery.unsaved(session):
                self._idle[key] = self._idle.pop(key)
                continue
            self._put_away(session)

    def _put_away(self, session: Session) -> None:
        self._server.subscriptions.put_away(session)
        self._drop(session)
        self._absent += 1

    def forget(self, key: DeviceKey) -> None:
        """Keep a session no longer that nobody is connected to, if storage has all of it: another node may change it."""
        session = self._sessions.get(key)
        if session is not None and key in self._idle and not session.in_use and not self._server.delivery.unsaved(session):
            self._put_away(session)

    def _keep(self, session: Session) -> None:
        self._by_device.put(session)
        self._idle.pop(session.key, None)

    def _drop(self, session: Session) -> None:
        if self._sessions.get(session.key) is session:
            self._by_device.remove(session.key)
            self._idle.pop(session.key, None)

    # --- opening ---------------------------------------------------------------------------------------------------

    def open(
        self,
        connection: Link,
        key: DeviceKey,
        *,
        clean: bool,
        expiry: int,
        begins: bool,
        will: bytes | None,
        opened: Opened,
        again: Callable[[], None],
    ) -> None:
        """Give the connection its session; ``opened(session, present)`` is called once that is durable, or ``again()`` where
        another node opened it at the same moment and it is to be read anew.

        ``begins``: `RetentionLock.begin` was awaited for it.
        """
        old = before = self._sessions.get(key)
        if old is not None and old.connection is not None:
            self._server.counters.takeovers += 1
            old.connection.disconnect(ReasonCode.SESSION_TAKEN_OVER, "taken over by a newer connection")
            old = self._sessions.get(key)
        if old is not None and self.deadlines.passed(old):
            self.deadlines.act(old)
            old = self._sessions.get(key)
        if old is not None and clean:
            self._forget(old)
        present = old is not None and old.durable and not clean
        left = Left(expiry)
        if present:
            assert old is not None
            session = old
            left = Left(old.expiry, old.will, old.will_at)
        else:
            session = Session(key, durable=expiry > 0, window=self._server.settings.mqtt.inflight_window)
            session.epoch = before.epoch if before is not None else self._first_epoch()
            session.unopened = True
        self._keep(session)
        session.epoch += 1
        session.connection, session.elsewhere = connection, False
        session.will, session.will_at, session.expires_at = will, 0, 0
        connection.session = session
        step = OpenStep(
            self._server,
            connection,
            session,
            expiry,
            left,
            fresh=not present,
            clean=clean or (before is not None and not present),
            begins=begins,
            opened=opened,
            again=again,
        )
        session.expiry = expiry
        self._opening[connection] = step
        self._server.opening(connection)
        self._server.pipeline.submit(step)

    @property
    def full(self) -> bool:
        """As much waits to be stored of those that gave up as may: nobody else is to begin."""
        return self._given_up >= self._server.settings.limits.pending_bytes

    def _give_up(self, connection: Link) -> Left | None:
        """A connection ended; where it never had its session, what goes on of that. Each time that a client connects while
        storage is away leaves steps behind that must wait for it, as storage may have been given some of them."""
        step = self._opening.pop(connection, None)
        if step is None:
            return None
        session = connection.session
        assert session is not None
        size = _GIVEN_UP + len(session.key.user) + len(session.key.client_id)
        self._given_up += size
        return step.give_up(size)

    def stored(self, step: OpenStep, connection: Link | None) -> None:
        """An opening is durable, and what became of it is known."""
        if connection is not None:
            self._opening.pop(connection, None)
        self._given_up -= step.given_up

    def start_over(self, session: Session, connection: Link | None) -> bool:
        """Storage has more of a session than is here, as another node opened it since it was looked for: keep what is here no
        longer. Whether the connection is to open it anew; where a newer one is about to, that does."""
        if session.connection is not None and session.connection is not connection:
            return False
        here = connection is not None and session.connection is connection
        if connection is not None and here:
            session.connection = connection.session = None
            session.will, session.will_at = None, 0
            self.deadlines.prolong(session)
            self._server.pipeline.submit(EndStep(self._server, session, closing(session, delete=False), keep=True))
        session.ended = True
        if self._sessions.get(session.key) is session:
            if session.durable:
                self._put_away(session)
            else:
                self._drop(session)
        return here

    def _first_epoch(self) -> int:
        """What the epochs of a device begin after. In a cluster they go on above those of an earlier session of the device,
        which may be at work still on a node that is frozen."""
        cluster = self._server.cluster
        return 0 if cluster is None else cluster.time()

    def _forget(self, session: Session) -> None:
        """A clean start ends the session that there was; a will that it delays is due."""
        if session.will is not None:
            if self.may_leave(info_of(*session.key), session.will):
                self._server.pipeline.submit(wills.append(session.will, session.key, self._server.time))
            session.will = None
        self.end_session(session, closing(session, delete=True) if session.durable else None)

    # --- ending ----------------------------------------------------------------------------------------------------

    def end(self, connection: Link, why: str) -> None:
        """The connection of a session ended, for whatever reason. Called once per connection."""
        session = connection.session
        if session is None or session.connection is not connection:
            return
        server = self._server
        self._detach(session, connection)
        left = self._give_up(connection)
        now = server.time.now()
        will, delayed_until = session.will, 0
        stored = session.durable or will is not None
        session.will = None
        if left is not None:  # it was never accepted, so all is as before
            session.expiry, session.will, delayed_until = left.expiry, left.will, left.will_at
            will = None
        ends_now = not session.expiry
        if will is not None and connection.will_wanted and self.may_leave(connection.info, will):
            wait = 0 if ends_now else wills.delay(will)
            if wait:
                session.will, delayed_until = will, now + wait * 1000
            else:
                server.pipeline.submit(wills.append(will, session.key, server.time))
        session.will_at = delayed_until
        self.deadlines.prolong(session)
        if ends_now:
            self.end_session(session, closing(session, delete=True) if stored else None)
        else:
            server.delivery.save(session)
            server.pipeline.submit(EndStep(server, session, closing(session, delete=False), keep=True))
            if self._sessions.get(session.key) is session:
                self._idle[session.key] = server.clock.now()

    def may_leave(self, info: SessionInfo, will: bytes) -> bool:
        """Whether a will's client may still publish it: rules may have changed since its CONNECT. What only somebody who has to
        be waited for can say is as it was then."""
        access, topic = self._server.access, wills.topic(will)
        why = access.closed(topic)  # as where the plugin is gone that the topic needs
        if not why and access.cached(info, PUBLISH, topic) is not False:
            return True
        access.log_refusal(info, PUBLISH, topic, why and f"it {why}")
        return False

    def _detach(self, session: Session, connection: Link, *, lost: bool = False) -> None:
        server = self._server
        server.delivery.detach(session)
        connection.outbound = None
        session.connection = None
        session.window.disconnected()
        if session.shared_filters:
            server.shared_groups.detach(session, lost=lost)
        server.disconnected(connection, was_open=connection.was_open or connection.open)

    def lose(self, session: Session) -> None:
        """Another node has the device now: the connection is closed, and nothing is written for it. Storage has what the other
        node goes on with; here only the filters stay, set aside.

        A will that is due with the end of the connection is published here too, once all the same, as it has a key: the other
        node may not know of it, where both opened the device at the same moment.
        """
        connection = session.connection
        if connection is not None:
            will = session.will
            self._give_up(connection)
            if will is not None and connection.open and not wills.delay(will) and self.may_leave(connection.info, will):
                self._server.pipeline.submit(wills.append(will, session.key, self._server.time))
            self._server.counters.takeovers += 1
            self._detach(session, connection, lost=True)
            connection.disconnect(ReasonCode.SESSION_TAKEN_OVER, "taken over by a newer connection to another node")
        if self._sessions.get(session.key) is not session:
            return
        session.will = None
        if session.durable:
            session.ended = True
            self._put_away(session)
        else:
            if self._server.cluster is not None:
                self._server.cluster.lost(session.key)
            self._drop(session)
            self._server.pipeline.submit(EndStep(self._server, session, None, lost=True))

    def end_session(self, session: Session, operation: CloseSession | None) -> None:
        """The session ends at the next place in the order; until that is durable nobody reads it from storage."""
        key = session.key
        self._drop(session)
        if operation is not None:
            before = self._ending.get(key)
            self._ending[key] = (before[0] if before else asyncio.get_running_loop().create_future(), operation)
        self._server.pipeline.submit(EndStep(self._server, session, operation))

    def ended(self, key: DeviceKey, operation: CloseSession) -> None:
        """A session's end is durable."""
        ending = self._ending.get(key)
        if ending is not None and ending[1] is operation:
            del self._ending[key]
            ending[0].set_result(None)

    def create(self, key: DeviceKey) -> Session:
        """A durable session without a connection, for a device that has none; storage hears of it by its first operation."""
        session = Session(key, durable=True, window=self._server.settings.mqtt.inflight_window)
        session.expiry = self._server.settings.mqtt.max_session_expiry
        session.epoch = self._first_epoch()
        self._keep(session)
        self._idle[key] = self._server.clock.now()
        return session

    def remove(self, session: Session) -> None:
        """End a session by hand: its connection is closed, and all its state is gone."""
        if session.connection is not None:
            session.connection.disconnect(ReasonCode.ADMINISTRATIVE_ACTION, "the session was removed")
        if self._sessions.get(session.key) is session:
            self.end_session(session, closing(session, delete=True))
