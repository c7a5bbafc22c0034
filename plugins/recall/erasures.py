"""The erasures that were asked for: kept in rows, worked on by one node at a time, told the operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from broker.amqtt import Services, Undecided
from plugins.http.api import checked_user
from plugins.recall.eraser import Eraser
from plugins.recall.erasure import CONVERSATION, DONE, TABLE, USER, Erasure
from plugins.recall.records import RecordEraser
from plugins.timelines import Conflict, Forbidden, NotFound, Unprocessable, Who
from plugins.timelines.errors import Away
from plugins.timelines.publishing import check_name
from storage.ending import end
from storage.errors import StorageError
from storage.records import DropRow, PutRow, Row

log = logging.getLogger("tideline.recall")

MOST = 1000
"""Erasures that are remembered, ended ones too."""
_LEASE = "erasures"
_LOOK = 2.0
"""Seconds after which it is looked for what another node was asked, or left behind."""
_TIMEOUT = 10.0


class Erasures:
    """See the module. ``erasers``: of other plugins, by name. ``own``: users may erase themselves."""

    def __init__(self, server: Services, erasers: Mapping[str, RecordEraser], *, own: bool) -> None:
        self._server = server
        self._own = own
        self._eraser = Eraser(server, erasers)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on with what is not done, and wait for more."""
        self._task = asyncio.create_task(self._run(), name="erasures")

    async def stop(self) -> None:
        """End at the step under way, which is made again. May be called twice."""
        task, self._task = self._task, None
        await end([task])

    # --- what callers ask ------------------------------------------------------------------------------------------------

    async def ask(self, who: Who, user: str | None, conversation: str | None) -> dict[str, Any]:
        """`begin` for a caller, with exactly one of the two."""
        if (user is None) == (conversation is None):
            raise Unprocessable("give one of user and conversation")
        what, name = (CONVERSATION, conversation or "") if user is None else (USER, checked_user(user) or "")
        if what == CONVERSATION:
            check_name(name, "conversation")
        self._allow(who, what, name)
        return await self.begin(what, name)

    async def seen(self, who: Who, what: str, name: str) -> dict[str, Any]:
        """`one` for a caller."""
        self._allow(who, what, name)
        return await self.one(what, name)

    def _allow(self, who: Who, what: str, name: str) -> None:
        """The operator may, and where the configuration says so a user itself. A client id proves nothing."""
        if who.operator or (self._own and what == USER and name == who.user and name.startswith("u/")):
            return
        own = "; users may erase themselves where plugins.recall.own_erasure is true" if what == USER and not self._own else ""
        raise Forbidden(f"erasing {what} {name[:80]!r} is for the operator{own}")

    async def begin(self, what: str, name: str) -> dict[str, Any]:
        """Ask for one. One that is under way goes on; one that has ended begins anew. Raises a `Problem`."""
        row = await self._row(what, name)
        if row is not None and Erasure.of(row).state != DONE:
            return Erasure.of(row).shown()
        if row is None and len(await self._server.storage.rows(TABLE, "", limit=MOST)) >= MOST:
            raise Conflict(f"{MOST} erasures are remembered: forget some that have ended")
        erasure = Erasure(what, name, self._server.wall())
        put = PutRow(TABLE, "", erasure.key, erasure.value, row.revision if row is not None else 0)
        await self._commit(put)
        self._news.set()
        return erasure.shown()

    async def listed(self, after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """Erasures by what and name, and behind which the next page begins."""
        rows = await self._server.storage.rows(TABLE, "", after=after, limit=limit)
        return [Erasure.of(row).shown() for row in rows], rows[-1].key if len(rows) == limit else None

    async def one(self, what: str, name: str) -> dict[str, Any]:
        """One of them. Raises `NotFound`."""
        row = await self._row(what, name)
        if row is None:
            raise NotFound(f"erasure of {what} {name[:80]!r}: there is none")
        return Erasure.of(row).shown()

    async def forget(self, what: str, name: str) -> None:
        """Forget one that has ended. Raises `NotFound` and `Conflict`."""
        row = await self._row(what, name)
        if row is None:
            raise NotFound(f"erasure of {what} {name[:80]!r}: there is none")
        if Erasure.of(row).state != DONE:
            raise Conflict(f"erasure of {what} {name[:80]!r}: is under way, and goes on to its end")
        await self._commit(DropRow(TABLE, "", row.key, row.revision))

    async def _row(self, what: str, name: str) -> Row | None:
        return await self._server.storage.row(TABLE, "", f"{what}:{name}")

    async def _commit(self, op: PutRow | DropRow) -> None:
        try:
            await self._server.commit([op], _TIMEOUT)
        except StorageError as error:
            raise Away(str(error), retry_after=5) from error
        except Undecided as error:
            raise Away("storage does not answer; what was asked may still happen", retry_after=5) from error
        if op.error is not None:
            raise Conflict(str(op.error))

    # --- the work --------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        logged = ""
        while True:
            try:
                if await self._server.may(_LEASE):
                    await self._all()
                logged = ""
            except (StorageError, Undecided, Away, Conflict) as error:
                if str(error) != logged:
                    logged = str(error)
                    log.warning("erasing waits: %s", logged)
            except Exception:
                log.exception("erasing failed, trying again in %g s", _LOOK)
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._news.wait()

    async def _all(self) -> None:
        after = ""
        while rows := await self._server.storage.rows(TABLE, "", after=after):
            for row in rows:
                erasure, revision = Erasure.of(row), row.revision
                while erasure.state != DONE:
                    await self._eraser.step(erasure)
                    put = PutRow(TABLE, "", erasure.key, erasure.value, revision, purges=erasure.state == DONE)
                    await self._commit(put)
                    revision = put.revision
                    if erasure.state == DONE:
                        log.info("erased %s %r: %d messages recalled", erasure.what, erasure.name[:200], erasure.recalled)
            after = rows[-1].key
