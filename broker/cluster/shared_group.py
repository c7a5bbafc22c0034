"""A shared subscription whose members may be on several nodes: one node's part of it (`storage.shared_inboxes`).

This node claims entries of the group's inbox while its members have room, and never more than they have room for. One task at
a time tells storage what is done here and what is given back, and claims (`_exchange`).

- What is done is told within a second, as offsets are.
- What no member here takes is given back: at once where none is connected, or where none that is may have it (this node does
  not claim it again until its members change); else after `_HOLDS` seconds.
- QoS 2 that was sent goes on with its device: when that disconnects, the entry is *held* and nobody's claim. When the device is
  finished with it, on whichever node, it is *settled*; until that is durable the device's own state keeps it
  (`Session.settling`). So what a dead node had claimed is free, but for what is in flight in its members' stored state.

Over 300 lines: a node's part of a group is told in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from broker.delivery import SharedGroup
from broker.sessions import RELEASED, Slot
from storage.cluster import Wake
from storage.errors import FencedOut, StorageUnavailable
from storage.records import Inflight, InflightState
from storage.shared_inboxes import Exchange, SeqRange, Want, entries_in, joined, singles

if TYPE_CHECKING:
    from broker.clock import Timer
    from broker.cluster.shared_groups import ClusterSharedGroups
    from broker.delivery import Machine
    from broker.sessions import Session, Timeline
    from storage.records import InboxEntry, Message, Operation, Subscription

log = logging.getLogger(__name__)

_HOLDS = 0.5
"""Seconds for which a node keeps what its members have no room for; and what they cannot take, while that is much."""
_MOST_REFUSED = 100
"""Entries that this node has refused, and nobody has taken, before it keeps more of them to itself."""
_BACKOFF = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
MOST = 1000
"""Entries that are claimed at once."""


class ClusterSharedGroup(SharedGroup):
    """See the module. It is there while a member is connected here, and until all is given back."""

    __slots__ = (
        "_back",
        "_changed",
        "_exchanging",
        "_groups",
        "_held",
        "_holding",
        "_in_doubt",
        "_known",
        "_news",
        "_refusals",
        "_refused",
        "_settled",
        "_tasks",
        "_tell",
        "head",
        "since",
    )

    def __init__(self, groups: ClusterSharedGroups, inbox: Timeline, filter_: str) -> None:
        super().__init__(groups.server, inbox, filter_)
        self._groups = groups
        self.machine.elsewhere = True  # as far as is known: before anything is given up, that is looked at
        self.since = -1
        """Where the group began; below 0 until that is known."""
        self.head = 0
        """Where the inbox ends, as far as is known."""
        self._known: list[SeqRange] = []  # what storage says that is claimed here
        self._back: list[SeqRange] = []
        self._refused: list[SeqRange] = []  # to be given back for others, and only for them
        self._refusals = 0  # of those that storage was told of, how many nobody has taken
        self._changed = True  # the members are others than those that refused
        self._held: set[int] = set()
        self._in_doubt: set[int] = set()
        self._settled: list[tuple[Session, Inflight]] = []
        self._news = True  # there may be something to claim
        self._tell = False  # something is done that storage is to be told
        self._exchanging: asyncio.Task[None] | None = None
        self._holding: Timer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life ------------------------------------------------------------------------------------------------------------

    def opened(self, since: int, head: int) -> None:
        """The group is stored, and the other nodes know that this one has members."""
        self.since = since
        self.head = max(self.head, head)
        self.pump()

    @property
    def empty(self) -> bool:
        """No member is connected here, and nothing is to be told."""
        nothing_left = not (self._known or self._back or self._refused or self._held or self._settled or self._in_doubt)
        return nothing_left and self.since >= 0 and not self.machine.members and self._exchanging is None

    async def stop(self) -> None:
        """This node leaves the cluster: give back all that no device has."""
        self._give_back()
        self._look()
        while (exchanging := self._exchanging) is not None:
            await asyncio.shield(exchanging)
            await asyncio.sleep(0)  # until what follows an exchange has begun the next one, or none

    def close(self) -> None:
        """Nobody reads any more."""
        super().close()
        for task in [*self._tasks, *([self._exchanging] if self._exchanging is not None else [])]:
            task.cancel()

    # --- members -----------------------------------------------------------------------------------------------------------

    def join(self, session: Session, subscription: Subscription) -> None:
        """Add a member, or replace its options; `pump` follows. Who is not connected comes when it is."""
        super().join(session, subscription)
        self.changed()
        if session.connection is None or session.connection.outbound is None:
            self.machine.members.pop(session, None)

    def came(self, session: Session, machine: Machine) -> None:
        """A member's connection begins; `pump` follows."""
        super().came(session, machine)
        self.changed()
        for entry in session.settling or ():
            if entry.timeline == self.inbox:
                self._settled.append((session, entry))

    def changed(self) -> None:
        """Somebody may take what the members have refused, or nobody any more; `pump` follows."""
        self._changed = self._news = True

    def leave(self, session: Session) -> list[Operation]:
        """The member unsubscribed, or its session ended. What is to be stored with that; `pump` follows."""
        slots = [slot for slot in session.window.pending() if slot.timeline == self.inbox]
        self.machine.left(session)
        self.changed()
        for slot in slots:
            if slot.seq not in self.machine.pending and slot.state is not InflightState.PUBLISHED_1:
                self._settle(session, slot)
        self.touch()
        return [session.progress()] if slots and session.durable and not session.ended else []

    def gone(self, session: Session, *, lost: bool) -> None:
        """The member's connection ended."""
        pending = [slot for slot in session.window.pending() if slot.timeline == self.inbox and session.durable]
        twos = [slot.seq for slot in pending if slot.state is not InflightState.PUBLISHED_1]
        took = self.machine.moved(session, lost=lost)
        doubt = twos if lost else [seq for seq in twos if seq not in took]
        self.machine.withdraw(doubt)
        self._held.update(seq for seq in took if seq not in doubt)
        if session.durable and not lost:
            self._server.delivery.save(session)  # that it has not what it was not sent: before another member has
        if doubt:
            self._in_doubt.update(doubt)
            self._run(self._ask_what_it_has(session, doubt))
        self._tell = True
        if not self.machine.members:
            self._give_back()
        self.pump()

    async def _ask_what_it_has(self, session: Session, took: list[int]) -> None:
        """What was held here, and never sent, may be sent where the device is by now, if that is what is stored of it."""
        await self._groups.cluster.takeover.store([])
        device = await self._server.delivery.persist(session.key.client_id, lambda: self._server.storage.device(session.key))
        has = {entry.seq for entry in device.inflight if entry.timeline == self.inbox} if device is not None else set()
        self._in_doubt.difference_update(took)
        self._held.update(seq for seq in took if seq in has)
        self._back += singles(seq for seq in took if seq not in has)
        self._look()

    def finished(self, session: Session, slot: Slot) -> None:
        """A member acknowledged to the end."""
        super().finished(session, slot)
        if slot.state is RELEASED:
            self._settle(session, slot)

    def _settle(self, session: Session, slot: Slot) -> None:
        self._held.discard(slot.seq)
        entry = Inflight(0, slot.seq, RELEASED, self.inbox)
        session.settling = [*(session.settling or ()), entry]
        self._settled.append((session, entry))

    def received_at(self, seq: int) -> None:
        """A member has received a message at QoS 2: its own state says so until the group's does."""

    def holding(self) -> None:
        """What a member's machine holds is claimed here, and in the member's progress."""

    # --- what there is to give out -----------------------------------------------------------------------------------------

    def push(self, entry: InboxEntry) -> None:
        """A committed entry; `pump` follows."""
        self.in_storage(entry.seq)

    def in_storage(self, seq: int) -> None:
        """Entries up to this one are committed, or some before it were given back; `pump` follows."""
        self.head = max(self.head, seq)
        self._news = True

    def pump(self) -> None:
        """Write what the members have room for."""
        if self.since >= 0 and not self.ended:
            super().pump()
            self._look()

    def save(self) -> None:
        """Tell storage what is done."""
        self._tell = True
        self._look()

    def live(self, message: Message, passed: tuple[Session, ...] = ()) -> None:
        """Of the nodes that have members one gives such a message to one of its own."""
        if passed or self._groups.is_first(self.inbox):
            super().live(message, passed)

    def _give_back(self) -> None:
        self._back += self.machine.give_back()

    def _look(self) -> None:
        """Claim, or tell, where there is a reason to."""
        if self.since < 0 or self.ended or self._exchanging is not None:
            return
        machine = self.machine
        if machine.keeps:
            self._refused += machine.refuse(max(0, _MOST_REFUSED - self._refusals - entries_in(self._refused)))
        if machine.keeps or (not machine.idle and not machine.room):
            self._hold()
        wants = self._news and machine.idle and machine.room > 0
        if self.empty and not self._tell:
            self._groups.close_soon(self)
        elif wants or self._tell or self._back or self._refused or self._held or self._settled:
            self._exchanging = asyncio.create_task(self._exchange(), name=f"divide {self.inbox}")
            self._exchanging.add_done_callback(self._exchanged)

    def _hold(self) -> None:
        """The members have no room for all that was claimed: others may have it, unless they soon do. Or they cannot take much
        of it, and what was given back for that is soon less."""
        if self._holding is None:
            self._holding = self._server.clock.after(_HOLDS, self._held_long)

    def _held_long(self) -> None:
        self._holding = None
        if self.ended:
            return
        if not self.machine.idle and not self.machine.room:
            self._give_back()
        self._tell |= self.machine.keeps
        self._look()

    def _exchanged(self, task: asyncio.Task[None]) -> None:
        self._exchanging = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("internal error in the shared subscription %s", self.inbox, exc_info=error)
        else:
            self.pump()

    # --- storage -----------------------------------------------------------------------------------------------------------

    async def _exchange(self) -> None:
        attempt = 0
        while True:
            try:
                await self._exchange_once()
            except StorageUnavailable as error:
                log.log(logging.WARNING if not attempt else logging.DEBUG, "%s is not divided now: %s", self.inbox, error)
            except FencedOut as error:
                self._groups.cluster.server.fenced(str(error))
                self.ended = True
                return
            else:
                return
            await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
            attempt += 1

    async def _exchange_once(self) -> None:
        inboxes, machine = self._groups.cluster.shared.shared_inboxes, self.machine
        back, refused, held, settled = list(self._back), list(self._refused), set(self._held), list(self._settled)
        others = False
        if back or refused:
            await self._groups.cluster.takeover.store([])  # so no member's stored state has it any more
        if refused:
            await self._groups.cluster.routes.refresh()
            others = self._groups.has_others(self)  # else nobody can take it, and it is done
        if settled:
            await inboxes.settle(self.inbox, [entry.seq for _, entry in settled])
            self._settled = self._settled[len(settled) :]
            self._forget(settled)
        machine.done()
        tell, self._tell, news, self._news = self._tell, False, self._news, False  # here: either may have come meanwhile
        changed, self._changed = self._changed, False
        meanwhile = [*self._back[len(back) :], *self._refused[len(refused) :]]
        mine = joined([*machine.outstanding(), *singles(self._in_doubt | self._held - held), *meanwhile])
        may_claim = news and machine.idle and machine.room > 0
        want = Want(self.head, min(machine.room, MOST), self._groups.parts(self.inbox)) if may_claim else None
        request = Exchange(self.since, self._known, mine, back, sorted(held), want, refused if others else [], changed)
        try:
            exchanged = await inboxes.exchange(self.inbox, request)
        except BaseException:
            self._tell, self._news, self._changed = True, True, self._changed or changed
            raise
        self._known, self._refusals = exchanged.claimed, exchanged.refused
        self._back, self._refused, self._held = self._back[len(back) :], self._refused[len(refused) :], self._held - held
        for first, last in exchanged.got:
            machine.claimed(first, last, max(self.head, last))
        more = bool(exchanged.got) and (exchanged.free or exchanged.got[-1].last < self.head)
        self._news |= news if want is None else more
        if not machine.members:
            self._give_back()
        if tell:
            self._groups.store_offset(self.inbox, exchanged.offset)
        if back or refused:
            await self._groups.cluster.wake([Wake(self.inbox, self.head, None)])

    def _forget(self, settled: list[tuple[Session, Inflight]]) -> None:
        """It is durable for the group: the devices' own state keeps it no longer."""
        for session, entry in settled:
            left = [other for other in session.settling or () if other is not entry]
            session.settling = left or None
            if self._groups.cluster.server.sessions.get(session.key) is session and session.durable:
                self._server.delivery.touch(session)

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work, name=f"what a device has of {self.inbox}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
