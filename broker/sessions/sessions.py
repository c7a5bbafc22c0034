"""The sessions of this node: opening, taking over, ending, expiring, and the wills that go with that.

Every change takes its place in the order of groups, as a step; the state in storage follows in the same order.

- One connection per device at a time; a newer one takes over, and the older is closed at once [MQTT-3.1.4-3].
- A will is durable before its CONNACK, and is published through the pipeline in the same group that forgets it: once, also
  when the broker is killed in between.
- A session ends when its expiry has passed since the connection ended; a will still delayed is published then
  [MQTT-3.1.3-9].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from broker.packets.codes import ReasonCode
from broker.pipeline import Step
from broker.sessions import wills
from broker.sessions.session import Session
from broker.sessions.timeline import is_group
from storage.records import (
    NEVER,
    CloseSession,
    Device,
    DeviceKey,
    OpenSession,
    Operation,
)

if TYPE_CHECKING:
    from broker.server import Server
    from broker.sessions.link import Link

Opened = Callable[[Session, bool], None]


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
    """By device; also the clean ones that are connected."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sessions = _ByDevice()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def get(self, key: DeviceKey) -> Session | None:
        """The device's session, connected or not."""
        return self._sessions.get(key)

    def named(self, client_id: str) -> list[Session]:
        """The sessions with this client id, one per user that has one."""
        return [session for key, session in self._sessions.items() if key.client_id == client_id]

    def of(self, user: str) -> list[Session]:
        """The sessions of one user."""
        if user.startswith("u/"):
            return list(self._sessions.users.get(user, {}).values())
        session = self._sessions.get(DeviceKey(user, user[2:]))
        return [] if session is None else [session]

    # --- start -----------------------------------------------------------------------------------------------------

    def load(self, device: Device) -> None:
        """Take a stored session up again. One that was connected when the broker died counts as disconnected now."""
        server = self._server
        if is_group(device.key.user):
            server.shares.load(device)
            return
        session = Session.load(device, server.settings.mqtt.inflight_window)
        self._sessions[device.key] = session
        server.subscriptions.load(session)
        self._anchor(session)
        self._schedule(session)

    def _anchor(self, session: Session) -> None:
        """Give a stored session its deadlines. None is further away than if the connection had ended now: the machine's clock
        may have been wrong when they were stored."""
        now = self._server.time.now()
        if session.expiry != NEVER:
            latest = now + session.expiry * 1000
            session.expires_at = min(session.expires_at or latest, latest)
        if session.will is not None:
            latest = now + wills.delay(session.will) * 1000
            session.will_at = min(session.will_at or latest, latest)

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
            self._sessions[key] = session
        session.no_timer()
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
        self._server.pipeline.submit(EndStep(self._server, session, closing))
        session.no_timer()
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]

    # --- ending ----------------------------------------------------------------------------------------------------

    def end(self, connection: Link, why: str) -> None:
        """The connection of a session ended, for whatever reason. Called once per connection."""
        session = connection.session
        if session is None or session.connection is not connection:
            return
        server = self._server
        server.delivery.detach(session)
        connection.feed = None
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
            del self._sessions[session.key]
            stored = session.durable or will is not None
            server.pipeline.submit(EndStep(server, session, self._closing(session, delete=True) if stored else None))
        else:
            server.delivery.save(session)
            server.pipeline.submit(EndStep(server, session, self._closing(session, delete=False), keep=True))
            self._schedule(session)

    @staticmethod
    def _closing(session: Session, *, delete: bool) -> CloseSession:
        return CloseSession(
            session.key, session.epoch, delete, session.expiry, session.expires_at, session.will, session.will_at
        )

    # --- deadlines of sessions that nobody is connected to ---------------------------------------------------------------

    def _schedule(self, session: Session) -> None:
        session.no_timer()
        due = [at for at in (session.expires_at, session.will_at if session.will is not None else 0) if at]
        if due:
            wait = max(0, min(due) - self._server.time.now()) / 1000
            session.timer = self._server.clock.after(wait, lambda: self._due(session))

    def _due(self, session: Session) -> None:
        """A deadline of a disconnected session passed."""
        session.no_timer()
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
            del self._sessions[session.key]
            server.pipeline.submit(EndStep(server, session, self._closing(session, delete=True)))
        else:
            self._schedule(session)

    def expire(self, session: Session) -> bool:
        """End a session whose time has passed, if it has, as the clock would have: it may not have, where the machine
        slept. Whether it ended."""
        if session.connection is not None or not 0 < session.expires_at <= self._server.time.now():
            return False
        self._due(session)
        return self._sessions.get(session.key) is not session

    def _overdue(self, session: Session) -> bool:
        """Whether a deadline of a disconnected session passed that the clock has not come to yet.

        Above all after a crash: then every will is due at once, and its device may be back before the first tick.
        """
        now = self._server.time.now()
        will_due = session.will is not None and session.will_at <= now
        return session.connection is None and (will_due or 0 < session.expires_at <= now)

    def create(self, key: DeviceKey) -> Session:
        """A durable session without a connection, for a device that has none; storage hears of it by its first operation."""
        session = Session(key, durable=True, window=self._server.settings.mqtt.inflight_window)
        session.expiry = self._server.settings.mqtt.max_session_expiry
        self._sessions[key] = session
        return session

    def prolong(self, session: Session) -> None:
        """The session's time begins again, as when a connection ends now."""
        session.expires_at = 0 if session.expiry == NEVER else self._server.time.now() + session.expiry * 1000
        self._schedule(session)

    def remove(self, session: Session) -> None:
        """End a session by hand: its connection is closed, and all its state is gone."""
        if session.connection is not None:
            session.connection.disconnect(ReasonCode.ADMINISTRATIVE_ACTION, "the session was removed")
        session.no_timer()
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            self._server.pipeline.submit(EndStep(self._server, session, self._closing(session, delete=True)))


class OpenStep(Step):
    """The opening of a session at its place in the order."""

    __slots__ = ("_begins", "_connection", "_fresh", "_opened", "_operation", "_present", "_server", "_session")

    def __init__(
        self,
        server: Server,
        connection: Link,
        session: Session,
        expiry: int,
        *,
        fresh: bool,
        present: bool,
        begins: bool,
        opened: Opened,
    ) -> None:
        self._begins = begins
        self._server = server
        self._connection = connection
        self._session = session
        self._fresh = fresh
        self._present = present
        self._opened = opened
        self._operation: OpenSession | None = None
        if session.durable or session.will is not None:
            start = server.start_position()
            self._operation = OpenSession(session.key, session.epoch, fresh, expiry, session.will, start, at=server.time.wall())

    def apply(self) -> list[Operation]:
        # Clean sessions without a will leave no trace in storage.
        return [] if self._operation is None else [self._operation]

    def done(self) -> None:
        try:
            self._opened_durably()
        finally:
            if self._begins:
                self._server.old_end.begun()

    def _opened_durably(self) -> None:
        session, connection = self._session, self._connection
        if self._operation is not None and self._fresh:
            session.cursor = self._operation.offset
        if connection.closed or session.connection is not connection:
            return
        operation = self._operation
        head = 0
        if operation is not None:
            head = operation.head
        self._opened(session, self._present)
        if not connection.open:
            return
        feed = connection.feed = self._server.delivery.attach(session, head)
        if self._fresh:
            session.awaits_filter = session.cursor < head
        feed.start()
        connection.go_on()


class EndStep(Step):
    """The end of a connection (``keep``) or of a session, at its place in the order."""

    __slots__ = ("_keep", "_operation", "_server", "_session")

    def __init__(self, server: Server, session: Session, operation: CloseSession | None, *, keep: bool = False) -> None:
        self._server = server
        self._session = session
        self._operation = operation
        self._keep = keep

    def apply(self) -> list[Operation]:
        operations: list[Operation] = []
        if not self._keep:
            session, server = self._session, self._server
            session.ended = True
            operations += server.subscriptions.ended(session)
        if self._operation is not None:
            operations.append(self._operation)
        return operations
