"""The sessions of this node: opening, taking over, ending, expiring, and the wills that go with that.

Every change takes its place in the order of groups, as a step; the state in storage follows in the same order.

- One connection per device at a time; a newer one takes over, and the older is closed at once [MQTT-3.1.4-3].
- A will is durable before its CONNACK, and is published through the pipeline in the same group that forgets it: once, also
  when the broker is killed in between.
- A session ends when its expiry has passed since the connection ended; a will still delayed is published then
  [MQTT-3.1.3-9].
- Only who is connected is held in memory, and for some seconds who was: see `Sessions`.

Over 300 lines: the life of a session is told in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from broker.packets import SHARE, ReasonCode
from broker.sessions import wills
from broker.sessions.session import Session
from broker.sessions.steps import Barrier, EndStep, Opened, OpenStep, PutAway
from broker.sessions.timeline import is_group
from storage.errors import StorageError
from storage.records import (
    NEVER,
    CloseSession,
    DeviceKey,
    Operation,
)

if TYPE_CHECKING:
    from broker.sessions.link import Link
    from broker.sessions.ports import Node

log = logging.getLogger(__name__)

IDLE = 5.0
"""Seconds for which a session stays in memory after its last use."""
_LOOK = 1.0
_AT_ONCE = 2000
_AGAIN = 1.0
_SHORTEST, _LONGEST = 0.05, 3600.0
"""Seconds between two looks at the deadlines."""


class _ByDevice(dict[DeviceKey, Session]):
    """Sessions by device, and the verified users' by user; an anonymous user has one device, of its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[str, dict[str, Session]] = {}

    def __setitem__(self, key: DeviceKey, session: Session) -> None:
        super().__setitem__(key, session)
        if key.user.startswith("u/"):
            self.users.setdefault(key.user, {})[key.client_id] = session

    def __delitem__(self, key: DeviceKey) -> None:
        super().__delitem__(key)
        devices = self.users.get(key.user)
        if devices is not None:
            devices.pop(key.client_id, None)
            if not devices:
                del self.users[key.user]


class Sessions:
    """By device: who is connected, clean sessions too, and who was until a moment ago. Everybody else is in storage alone.

    A session is put away some seconds after its last use, once all that was submitted for it is durable; `fetch` brings it
    back. So what is not in memory is in storage as it is.
    """

    def __init__(self, server: Node) -> None:
        self._server = server
        self._sessions = _ByDevice()
        self._absent = 0
        """How many are in storage alone."""
        self._loading: dict[DeviceKey, asyncio.Task[Session | None]] = {}
        self._ending: dict[DeviceKey, tuple[asyncio.Future[None], CloseSession]] = {}
        """Sessions that have ended, and are not out of storage yet; by the last step that takes one out."""
        self._idle: dict[DeviceKey, float] = {}
        """Durable sessions that nobody is connected to, by their last use, the oldest first."""
        self._putting_away = False
        self._next_deadline = 0
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

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
        return [session for key, session in self._sessions.items() if key.client_id == client_id]

    def of(self, user: str) -> list[Session]:
        """The sessions in memory of one user."""
        if user.startswith("u/"):
            return list(self._sessions.users.get(user, {}).values())
        session = self._sessions.get(DeviceKey(user, user[2:]))
        return [] if session is None else [session]

    def ending(self, key: DeviceKey) -> bool:
        """Whether storage has a session yet that has ended."""
        return key in self._ending

    # --- start and end -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what is stored: the filters of everybody, and whole only who takes part in a shared subscription."""
        server = self._server
        self._absent = await server.storage.device_count()
        groups: list[DeviceKey] = []
        members: dict[DeviceKey, None] = {}
        async for page in server.storage.subscribed():
            for user, client_id, filter_ in page:
                if is_group(user):
                    groups.append(DeviceKey(user, client_id))
                elif filter_.startswith(SHARE):
                    members[DeviceKey(user, client_id)] = None
                else:
                    server.trie.add_aside(filter_, user)
        for key in groups:
            device = await server.storage.device(key)
            if device is not None:
                self._absent -= 1
                server.shares.load(device)
        for key in members:
            await self.fetch(key)

    def start(self) -> None:
        """The pipeline runs: watch the deadlines, and put away who is idle."""
        self._tasks = [
            asyncio.create_task(self._watch(), name="session deadlines"),
            asyncio.create_task(self._date(), name="sessions of the last run"),
        ]
        self._look_for_idle()

    async def stop(self) -> None:
        """Watch no longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _date(self) -> None:
        """Who was connected when the broker died counts as disconnected now; and no deadline is further away than that, as the
        machine's clock may have been wrong when it was stored."""
        server = self._server
        now = server.time.now()
        while True:
            try:
                async for page in server.storage.undated(now):
                    operations: list[Operation] = []
                    for device in page:
                        if device.will is None and device.key not in self._sessions:
                            at = now + device.expiry * 1000
                            operations.append(CloseSession(device.key, device.epoch, False, device.expiry, at))
                        else:
                            await self._date_session(device.key)
                    await self._durable(operations)
                return
            except StorageError as error:
                log.warning("deadlines of the last run are not known yet: %s", error)
                await asyncio.sleep(_AGAIN)

    async def _date_session(self, key: DeviceKey) -> None:
        session = await self.fetch(key)
        if session is not None and session.connection is None:
            self._server.pipeline.submit(EndStep(self._server, session, self._closing(session, delete=False), keep=True))

    async def _durable(self, operations: list[Operation]) -> None:
        """Store these, after all that was submitted before."""
        stored = asyncio.Event()
        self._server.pipeline.submit(Barrier(operations, stored))
        await stored.wait()
        self.plan(min((op.expires_at for op in operations if isinstance(op, CloseSession)), default=0))

    # --- in memory or not ----------------------------------------------------------------------------------------------

    async def fetch(self, key: DeviceKey) -> Session | None:
        """The device's session, from storage where it is not in memory; it stays for some seconds. Raises `StorageError`."""
        while (session := self._sessions.get(key)) is None:
            if (ending := self._ending.get(key)) is not None:
                await asyncio.shield(ending[0])
                continue
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.create_task(self._read(key), name="load session")
            if await asyncio.shield(loading) is None:
                return self._sessions.get(key)
        if self._idle.pop(key, None) is not None:
            self._idle[key] = self._server.clock.now()
        return session

    async def _read(self, key: DeviceKey) -> Session | None:
        server = self._server
        try:
            device = await server.storage.device(key)
        finally:
            del self._loading[key]
        if device is None or key in self._sessions or key in self._ending:
            return self._sessions.get(key)
        session = self._sessions[key] = Session.load(device, server.settings.mqtt.inflight_window)
        self._absent -= 1
        server.subscriptions.load(session)
        self._anchor(session)
        self._idle[key] = server.clock.now()
        return session

    def _anchor(self, session: Session) -> None:
        """Give a session the deadlines that storage may not have: those of a connection that ended now, at the latest."""
        now = self._server.time.now()
        if session.expiry != NEVER:
            latest = now + session.expiry * 1000
            session.expires_at = min(session.expires_at or latest, latest)
        if session.will is not None:
            latest = now + wills.delay(session.will) * 1000
            session.will_at = min(session.will_at or latest, latest)

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
            if session.shares or session.in_use or self._server.delivery.unsaved(session):
                self._idle[key] = self._idle.pop(key)
                continue
            self._server.subscriptions.put_away(session)
            self._drop(session)
            self._absent += 1

    def _keep(self, session: Session) -> None:
        self._sessions[session.key] = session
        self._idle.pop(session.key, None)

    def _drop(self, session: Session) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
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
    ) -> None:
        """Give the connection its session; ``opened(session, present)`` is called once that is durable.

        ``begins``: `OldEnd.begin` was awaited for it.
        """
        old = self._sessions.get(key)
        if old is not None and old.connection is not None:
            self._server.counters.takeovers += 1
            if clean:
                old.will_at = -1  # the session ends here, and so does the will's delay [MQTT-3.1.3-9]
            old.connection.disconnect(ReasonCode.SESSION_TAKEN_OVER, "taken over by a newer connection")
            old = self._sessions.get(key)
        if old is not None and self._overdue(old):
            self._due(old)
            old = self._sessions.get(key)
        if old is not None and clean:
            self._forget(old)
        present = old is not None and old.durable and not clean
        if present:
            assert old is not None
            session = old
        else:
            session = Session(key, durable=expiry > 0, window=self._server.settings.mqtt.inflight_window)
            session.epoch = old.epoch if old is not None else 0
        self._keep(session)
        session.epoch += 1
        session.connection = connection
        session.will, session.will_at, session.expires_at = will, 0, 0
        connection.session = session
        step = OpenStep(
            self._server, connection, session, expiry, fresh=not present, present=present, begins=begins, opened=opened
        )
        session.expiry = expiry
        self._server.pipeline.submit(step)

    def _forget(self, session: Session) -> None:
        """A clean start ends the session that there was; a will that it delays is due."""
        if session.will is not None:
            self._server.pipeline.submit(wills.append(session.will, session.key, self._server.time))
            session.will = None
        closing = self._closing(session, delete=True) if session.durable else None
        self._end(session, closing)

    # --- ending ----------------------------------------------------------------------------------------------------

    def end(self, connection: Link, why: str) -> None:
        """The connection of a session ended, for whatever reason. Called once per connection."""
        session = connection.session
        if session is None or session.connection is not connection:
            return
        server = self._server
        server.delivery.detach(session)
        connection.outbound = None
        session.connection = None
        session.window.disconnected()
        if session.shares:
            server.shares.detach(session)
        server.disconnected(connection, was_open=connection.was_open)
        now = server.time.now()
        ends_now = not session.expiry
        will, delayed_until = session.will, 0
        session.will = None
        if will is not None and connection.will_wanted:
            wait = 0 if ends_now or session.will_at < 0 else wills.delay(will)
            if wait:
                session.will, delayed_until = will, now + wait * 1000
            else:
                server.pipeline.submit(wills.append(will, session.key, server.time))
        session.will_at = delayed_until
        session.expires_at = 0 if session.expiry == NEVER else now + session.expiry * 1000
        if ends_now:
            stored = session.durable or will is not None
            self._end(session, self._closing(session, delete=True) if stored else None)
        else:
            server.delivery.save(session)
            server.pipeline.submit(EndStep(server, session, self._closing(session, delete=False), keep=True))
            self._idle[session.key] = server.clock.now()

    def _end(self, session: Session, closing: CloseSession | None) -> None:
        """The session ends at the next place in the order; until that is durable nobody reads it from storage."""
        key = session.key
        self._drop(session)
        if closing is not None:
            before = self._ending.get(key)
            self._ending[key] = (before[0] if before else asyncio.get_running_loop().create_future(), closing)
        self._server.pipeline.submit(EndStep(self._server, session, closing))

    def ended(self, key: DeviceKey, closing: CloseSession) -> None:
        """A session's end is durable."""
        ending = self._ending.get(key)
        if ending is not None and ending[1] is closing:
            del self._ending[key]
            ending[0].set_result(None)

    @staticmethod
    def _closing(session: Session, *, delete: bool) -> CloseSession:
        return CloseSession(
            session.key, session.epoch, delete, session.expiry, session.expires_at, session.will, session.will_at
        )

    # --- deadlines of sessions that nobody is connected to ---------------------------------------------------------------

    def plan(self, at: int) -> None:
        """There is a deadline at that time (ms), durably."""
        if at and (not self._next_deadline or at < self._next_deadline):
            self._news.set()

    async def _watch(self) -> None:
        """Storage knows all deadlines; ask it whenever the next one has come, or one that is earlier was stored."""
        server = self._server
        while True:
            self._news.clear()
            try:
                self._next_deadline, _ = await self.end_due()
            except StorageError as error:
                log.debug("deadlines of sessions are not known now: %s", error)
                await asyncio.sleep(_AGAIN)
                continue
            wait = None
            if self._next_deadline:
                wait = min(_LONGEST, max(_SHORTEST, (self._next_deadline - server.time.now()) / 1000))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()

    async def end_due(self) -> tuple[int, int]:
        """Publish the wills and end the sessions that are due; (the next deadline, how many sessions ended)."""
        ended = 0
        while True:
            found = await self._server.storage.due(self._server.time.now(), _AT_ONCE)
            for key in found.devices:
                session = await self.fetch(key)
                if session is not None and self._overdue(session):
                    ended += self._due(session)
            if not found.devices:
                return found.next, ended
            await self._durable([])

    def _due(self, session: Session) -> bool:
        """A deadline of a disconnected session has passed; whether the session ended by it."""
        server = self._server
        now = server.time.now()
        expired = 0 < session.expires_at <= now
        if session.will is not None and (expired or session.will_at <= now):
            server.pipeline.submit(wills.append(session.will, session.key, server.time))
            session.will, session.will_at = None, 0
            if not expired:
                server.pipeline.submit(EndStep(server, session, self._closing(session, delete=False), keep=True))
        if expired:
            server.counters.clients_expired += 1
            self._end(session, self._closing(session, delete=True))
        return expired

    def _overdue(self, session: Session) -> bool:
        """Whether a deadline of a disconnected session has passed.

        Above all after a crash: then every will is due at once, and its device may be back before the first tick.
        """
        now = self._server.time.now()
        will_due = session.will is not None and session.will_at <= now
        return session.connection is None and (will_due or 0 < session.expires_at <= now)

    def create(self, key: DeviceKey) -> Session:
        """A durable session without a connection, for a device that has none; storage hears of it by its first operation."""
        session = Session(key, durable=True, window=self._server.settings.mqtt.inflight_window)
        session.expiry = self._server.settings.mqtt.max_session_expiry
        self._keep(session)
        self._idle[key] = self._server.clock.now()
        return session

    def prolong(self, session: Session) -> None:
        """The session's time begins again, as when a connection ends now."""
        session.expires_at = 0 if session.expiry == NEVER else self._server.time.now() + session.expiry * 1000

    def remove(self, session: Session) -> None:
        """End a session by hand: its connection is closed, and all its state is gone."""
        if session.connection is not None:
            session.connection.disconnect(ReasonCode.ADMINISTRATIVE_ACTION, "the session was removed")
        if self._sessions.get(session.key) is session:
            self._end(session, self._closing(session, delete=True))
