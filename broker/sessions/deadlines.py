"""Deadlines of sessions that nobody is connected to: when a delayed will is published, and when a session ends.

Also those of a broker that crashed: who was connected then counts as disconnected at the next start, so that a will is
published and an expiry begins.

- A session ends when its expiry has passed since the connection ended; a will still delayed is published then
  [MQTT-3.1.3-9].
- Storage knows all deadlines. No session is in memory for the sake of one.
- Of the nodes of a cluster one looks at them. Two that look do no harm: the end of a session names its epoch, and a will has a
  key of its own.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from broker.access import info_of
from broker.pipeline import Operations
from broker.sessions import wills
from broker.sessions.steps import EndStep, closing
from storage.ending import end
from storage.errors import StorageError
from storage.records import NEVER, CloseSession, DeviceKey, Operation

if TYPE_CHECKING:
    from broker.sessions.lifecycle import Sessions
    from broker.sessions.ports import Node
    from broker.sessions.session import Session

log = logging.getLogger(__name__)

_AT_ONCE = 2000
_AGAIN, _AFTER_BUG = 1.0, 30.0
"""Seconds until they are asked for again where storage is away, and where something of ours is wrong."""
_SHORTEST, _LONGEST = 0.05, 3600.0
"""Seconds between two looks at the deadlines."""
_AMONG_OTHERS = 1.0
"""The longest of them in a cluster, where any node may store a deadline."""
_LEASE = "deadlines"


class Deadlines:
    """Watches the deadlines of a node's sessions."""

    def __init__(self, server: Node, sessions: Sessions) -> None:
        self._server = server
        self._sessions = sessions
        self._next = 0
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """The pipeline runs: watch, and give deadlines to the sessions of the last run."""
        self._tasks = [asyncio.create_task(self._watch(), name="session deadlines")]
        if self._server.cluster is None:  # else whoever finds a node dead does it: others may have these devices
            self._tasks.append(asyncio.create_task(self._date(), name="sessions of the last run"))

    async def stop(self) -> None:
        """Watch no longer."""
        await end(self._tasks)

    # --- at the start ------------------------------------------------------------------------------------------------

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
                        if device.will is None and self._sessions.get(device.key) is None:
                            at = now + device.expiry * 1000
                            operations.append(CloseSession(device.key, device.epoch, False, device.expiry, at))
                        else:
                            await self._date_session(device.key)
                    await self._durable(operations)
                return
            except StorageError as error:
                log.warning("deadlines of the last run are not known yet: %s", error)
                await asyncio.sleep(_AGAIN)
            except Exception:
                log.exception("dating the sessions of the last run failed")
                await asyncio.sleep(_AFTER_BUG)

    async def _date_session(self, key: DeviceKey) -> None:
        session = await self._sessions.fetch(key)
        if session is not None and session.connection is None:
            self._server.pipeline.submit(EndStep(self._server, session, closing(session, delete=False), keep=True))

    async def _durable(self, operations: list[Operation]) -> None:
        """Store these, after all that was submitted before."""
        step = Operations(operations)
        self._server.pipeline.submit(step)
        await step.finished
        self.plan(min((op.expires_at for op in operations if isinstance(op, CloseSession)), default=0))

    # --- while the node runs -----------------------------------------------------------------------------------------

    def plan(self, at: int) -> None:
        """There is a deadline at that time (ms), durably."""
        if at and (not self._next or at < self._next):
            self._news.set()

    async def _watch(self) -> None:
        """Storage knows all deadlines; ask it whenever the next one has come, or one that is earlier was stored."""
        server = self._server
        longest = _LONGEST if server.cluster is None else _AMONG_OTHERS
        while True:
            self._news.clear()
            try:
                self._next = 0
                if server.cluster is None or await server.cluster.may(_LEASE):
                    self._next, _ = await self.end_due()
            except StorageError as error:
                log.debug("deadlines of sessions are not known now: %s", error)
                await asyncio.sleep(_AGAIN)
                continue
            except Exception:  # our bug: no session would ever end again, and no delayed will be published
                log.exception("looking at the deadlines of sessions failed")
                await asyncio.sleep(_AFTER_BUG)
                continue
            wait = None if server.cluster is None else longest
            if self._next:
                wait = min(longest, max(_SHORTEST, (self._next - server.time.now()) / 1000))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()

    async def end_due(self) -> tuple[int, int]:
        """Publish the wills and end the sessions that are due; (the next deadline, how many sessions ended)."""
        ended = 0
        while True:
            found = await self._server.storage.due(self._server.time.now(), _AT_ONCE)
            for key in found.devices:
                session = await self._sessions.latest(key)
                if session is not None and self.passed(session):
                    ended += self.act(session)
            if not found.devices:
                return found.next, ended
            await self._durable([])

    def act(self, session: Session) -> bool:
        """A deadline of a disconnected session has passed; whether the session ended by it."""
        server = self._server
        now = server.time.now()
        expired = 0 < session.expires_at <= now
        if session.will is not None and (expired or 0 < session.will_at <= now):
            if self._sessions.may_leave(info_of(*session.key), session.will):
                server.pipeline.submit(wills.append(session.will, session.key, server.time))
            session.will, session.will_at = None, 0
            if not expired:
                server.pipeline.submit(EndStep(server, session, closing(session, delete=False), keep=True))
        if expired:
            server.counters.clients_expired += 1
            self._sessions.end_session(session, closing(session, delete=True))
        return expired

    def passed(self, session: Session) -> bool:
        """Whether a deadline of a disconnected session has passed.

        Above all after a crash: then every will is due at once, and its device may be back before the first tick. A session
        without deadlines is one that is connected, here or to another node.
        """
        now = self._server.time.now()
        will_due = session.will is not None and 0 < session.will_at <= now
        return session.connection is None and (will_due or 0 < session.expires_at <= now)

    # --- of one session -----------------------------------------------------------------------------------------------

    def anchor(self, session: Session) -> None:
        """Give a session the deadlines that storage may not have: those of a connection that ended now, at the latest."""
        now = self._server.time.now()
        if session.expiry != NEVER:
            latest = now + session.expiry * 1000
            session.expires_at = min(session.expires_at or latest, latest)
        if session.will is not None:
            latest = now + wills.delay(session.will) * 1000
            session.will_at = min(session.will_at or latest, latest)

    def prolong(self, session: Session) -> None:
        """The session's time begins again, as when a connection ends now."""
        session.expires_at = 0 if session.expiry == NEVER else self._server.time.now() + session.expiry * 1000
