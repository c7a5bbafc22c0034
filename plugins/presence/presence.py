"""Stores who is online, and tells it: a retained message at `$presence/<user>`.

- A device's row is written by the node that has its connection. Whoever finds that another one has it by now leaves it alone.
- What is told of a user is made of all its rows. In a cluster two nodes may tell of one user at once; each looks again behind
  what it told, so that the last word is of the rows as they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from broker.amqtt import BROKER_USER, Services, Undecided
from broker.publication import Outgoing, Publication
from plugins.presence.devices import Change, Devices
from plugins.presence.record import DEVICES, OF, PASSING, Device, key_of, presence_of, topic_of
from storage.errors import RowChanged, StorageError
from storage.records import DeviceKey, DropRow, Operation, PutRow, Row

log = logging.getLogger("tideline.presence")

AT_ONCE = 500
"""Changes of one commit."""
TIMEOUT = 30.0
_BUNDLE = 16 << 10
"""Bytes that are told in one group. Nothing stores them: what a subscriber's socket does not take at once is lost to it, and
`limits.write_high_water` is 64 KiB. Between two groups the socket is written."""
_AGAIN = 1.0
_PAGE = 200
_READ = 50
"""Users who are looked at together."""
_LOOKS = 5
"""How often what is told of users is made anew, where other nodes change it at the same time."""


class Presence:
    """Of the devices of one node, in one run of it."""

    def __init__(self, server: Services, devices: Devices, run: str) -> None:
        self._server = server
        self._devices = devices
        self._run = run
        self._revisions: dict[DeviceKey, int] = {}
        """Of the rows that say that a device is online here."""
        self.news = asyncio.Event()

    async def run(self) -> None:
        """Store and tell what changes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.news.clear()
            changes = self._devices.due(loop.time(), AT_ONCE)
            if changes:
                await self._settle(changes)
                continue
            next_ = self._devices.next()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if next_ == math.inf else next_):
                    await self.news.wait()

    async def _settle(self, changes: Sequence[Change]) -> None:
        try:
            await self._store(changes)
        except (StorageError, Undecided) as error:
            log.debug("who is online is stored later: %s", error)
            self._devices.again(changes)
            await asyncio.sleep(_AGAIN)
            return
        users = dict.fromkeys(change.device.user for change in changes)
        while users:
            try:
                await self.tell(users)
                return
            except (StorageError, Undecided) as error:
                log.debug("who is online is told later: %s", error)
                await asyncio.sleep(_AGAIN)

    async def _store(self, changes: Sequence[Change]) -> None:
        operations: list[Operation] = []
        rows: list[tuple[Change, PutRow | DropRow]] = []
        for change in changes:
            user, device = change.device
            row: PutRow | DropRow = PutRow(DEVICES, user, device, Device(change.online, change.since, self._run).encoded())
            mine = key_of(user, device)
            if change.online:
                operations += [PutRow(OF, self._run, mine, PASSING if change.passing else b""), row]
            else:
                if change.passing:
                    row = DropRow(DEVICES, user, device)
                row.expected = self._revisions.get(change.device)
                operations += [row, DropRow(OF, self._run, mine)]
            rows.append((change, row))
        await self._server.commit(operations, TIMEOUT)
        for change, row in rows:
            if isinstance(row, PutRow) and row.error is None and change.online:
                self._revisions[change.device] = row.revision
            else:
                self._revisions.pop(change.device, None)
            if row.error is not None and not isinstance(row.error, RowChanged):
                log.error("the presence of %r cannot be stored: %s", change.device.client_id, row.error)

    # --- telling -----------------------------------------------------------------------------------------------------

    async def of(self, user: str) -> dict[str, Any]:
        """What is told of a user, as storage has it."""
        return presence_of(user, await self._rows(user))

    async def _rows(self, user: str) -> list[Row]:
        rows: list[Row] = []
        while page := await self._server.storage.rows(DEVICES, user, after=rows[-1].key if rows else "", limit=_PAGE):
            rows += page
            if len(page) < _PAGE:
                break
        return rows

    async def tell(self, users: Iterable[str]) -> None:
        """Make what is told of users that of their rows."""
        left = dict.fromkeys(users, b"")
        for _ in range(_LOOKS):
            made = await self._payloads(list(left))
            left = {user: payload for user, payload in made.items() if payload != left[user]}
            if not left:
                return
            for some in _bundles(left):
                for outcome in await self._server.append_all_within(some, TIMEOUT):
                    if isinstance(outcome, BaseException):
                        raise outcome
            if self._server.storage.cluster is None:
                return

    async def _payloads(self, users: Sequence[str]) -> dict[str, bytes]:
        made: dict[str, bytes] = {}
        for start in range(0, len(users), _READ):
            some = users[start : start + _READ]
            made.update(zip(some, await asyncio.gather(*map(self._payload, some)), strict=True))
        return made

    async def _payload(self, user: str) -> bytes:
        state = await self.of(user)
        return json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode() if state["devices"] else b" "


def _bundles(payloads: Mapping[str, bytes]) -> Iterator[list[Publication]]:
    some: list[Publication] = []
    size = 0
    for one in payloads.items():
        message = message_of(*one)
        size += len(message.message.topic) + len(message.message.payload)
        if some and size > _BUNDLE:
            yield some
            some, size = [], len(message.message.topic) + len(message.message.payload)
        some.append(message)
    if some:
        yield some


def message_of(user: str, payload: bytes) -> Publication:
    """Of a user of whom nothing is known any more it is the empty one that ends what is retained."""
    message = Outgoing(topic_of(user), BROKER_USER, "", 1, payload.strip(), True)
    return Publication(message, retain=True)
