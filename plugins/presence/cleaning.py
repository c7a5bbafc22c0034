"""Sets right what runs of nodes that are gone have left: their devices are offline, since the run was last known to run.

Of the nodes of a cluster one does it. Who has come back through another node by then has a row of that node's, which stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from broker.amqtt import Services, Undecided
from plugins.presence.presence import AT_ONCE, TIMEOUT, Presence
from plugins.presence.record import DEVICES, OF, PASSING, RUNS, Device, parted
from storage.errors import FencedOut, StorageError
from storage.records import DropRow, Operation, PutRow, Row

log = logging.getLogger("tideline.presence")

LEASE = "presence"
_LOOK = 1.0
"""Seconds between two looks at who is gone."""
_BEAT = 30.0
"""Seconds between two notes that this run goes on: the most by which the time is wrong of who was connected to one that was
killed."""
_FORGET = 3600.0
_PAGE = 200


class Cleaning:
    """One node's part, whose own ``run`` this is. ``patience``: seconds for devices to come back after a start; ``forget``:
    seconds after which a device that was not seen is no longer known, 0 for never."""

    def __init__(self, server: Services, presence: Presence, run: str, patience: float, forget: float) -> None:
        self._server = server
        self._presence = presence
        self._run = run
        self._patience = patience
        self._forget = forget

    async def beat(self) -> None:
        """Note that this run goes on."""
        await self._server.commit([PutRow(RUNS, "", self._run, str(self._server.wall()).encode())], TIMEOUT)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        begun, beaten, forgot = loop.time(), -_BEAT, loop.time()
        while True:
            try:
                if loop.time() - beaten >= _BEAT:
                    await self.beat()
                    beaten = loop.time()
                if loop.time() - begun >= self._patience and await self._server.may(LEASE):
                    await self._look()
                    if self._forget and loop.time() - forgot >= _FORGET:
                        forgot = loop.time()
                        await self.forget()
            except FencedOut:
                return  # this node ends
            except (StorageError, Undecided) as error:
                log.debug("who is gone is not looked for now: %s", error)
            await asyncio.sleep(min(_LOOK, max(0.05, self._patience)))

    async def _look(self) -> None:
        nodes = await self._server.cluster()
        alive = {self._run} if nodes is None else {str(node.token) for node in nodes if node.state != "dead"}
        after = ""
        while page := await self._server.storage.rows(RUNS, "", after=after, limit=_PAGE):
            after = page[-1].key
            for row in page:
                if row.key not in alive:
                    await self._clear(row.key, int(row.value))

    async def _clear(self, run: str, last: int) -> None:
        while page := await self._server.storage.rows(OF, run, limit=AT_ONCE):
            operations: list[Operation] = []
            users: dict[str, None] = {}
            for row in page:
                user, device = parted(row.key)
                found = await self._server.storage.row(DEVICES, user, device)
                known = None if found is None else Device.decoded(found.value)
                if found is None or known is None or known.run != run:
                    continue
                users[user] = None
                if row.value == PASSING:
                    operations.append(DropRow(DEVICES, user, device, expected=found.revision))
                elif known.online:
                    gone = Device(False, max(known.since, last), run)
                    operations.append(PutRow(DEVICES, user, device, gone.encoded(), expected=found.revision))
            await self._server.commit(operations, TIMEOUT)
            await self._presence.tell(users)
            await self._server.commit([DropRow(OF, run, row.key) for row in page], TIMEOUT)
        await self._server.commit([DropRow(RUNS, "", run)], TIMEOUT)

    async def forget(self) -> None:
        """Forget devices that were seen last too long ago, and users without any."""
        before = self._server.wall() - round(self._forget * 1000)
        async for users in self._server.storage.parts(DEVICES):
            for user in users:
                rows = await self._server.storage.rows(DEVICES, user, limit=_PAGE)
                if old := [row for row in rows if _last_seen(row, before)]:
                    await self._drop(user, old)
                await asyncio.sleep(0)

    async def _drop(self, user: str, rows: Sequence[Row]) -> None:
        drops: list[Operation] = [DropRow(row.table, row.part, row.key, expected=row.revision) for row in rows]
        await self._server.commit(drops, TIMEOUT)
        await self._presence.tell([user])


def _last_seen(row: Row, before: int) -> bool:
    known = Device.decoded(row.value)
    return not known.online and known.since < before
