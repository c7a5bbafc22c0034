"""How the nodes of a `MemoryDatabase` divide the inboxes of shared subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Protocol

from storage.memory.database import MemoryDatabase
from storage.shared_inboxes import Division, Exchange, Exchanged


class Gate(Protocol):
    """What stands before and behind each call's effect; see `storage.memory.node.Faults`."""

    async def before(self, call: str) -> None: ...

    async def after(self, call: str) -> None: ...


class MemorySharedInboxes:
    """A `storage.cluster.SharedInboxes`."""

    def __init__(self, database: MemoryDatabase, gate: Gate, token: int) -> None:
        self._database = database
        self._gate = gate
        self._token = token

    async def exchange(self, inbox: str, request: Exchange) -> Exchanged:
        """See `storage.cluster.SharedInboxes`."""
        await self._gate.before("exchange")
        self._database.alive(self._token)
        division = self._database.divided.setdefault(inbox, Division(request.since, request.since + 1))
        exchanged = deepcopy(division.exchange(self._token, request))
        await self._gate.after("exchange")
        self._database.alive(self._token)
        return exchanged

    async def settle(self, inbox: str, entries: Sequence[int]) -> None:
        """See `storage.cluster.SharedInboxes`."""
        await self._gate.before("settle entries")
        self._database.alive(self._token)
        if inbox in self._database.divided:
            self._database.divided[inbox].settle(entries)
        await self._gate.after("settle entries")

    async def release(self, inbox: str, token: int, held: Sequence[int], done: Sequence[int]) -> None:
        """See `storage.cluster.SharedInboxes`."""
        await self._gate.before("release entries")
        self._database.alive(self._token)
        if inbox in self._database.divided:
            self._database.divided[inbox].release(token, held, done)
        await self._gate.after("release entries")

    async def divided(self) -> list[tuple[str, Division]]:
        """See `storage.cluster.SharedInboxes`."""
        await self._gate.before("divided")
        found = deepcopy(list(self._database.divided.items()))
        await self._gate.after("divided")
        return found

    async def forget(self, inbox: str, since: int) -> None:
        """See `storage.cluster.SharedInboxes`."""
        await self._gate.before("forget")
        self._database.alive(self._token)
        division = self._database.divided.get(inbox)
        if division is not None and division.since == since:
            del self._database.divided[inbox]
        await self._gate.after("forget")
