"""One shared subscription: the shell around its machine. It reads pages, stores progress, and hands frames to members.

Which member is given what, and when, is the machine's (`broker.delivery.shared_machine`). A node that serves alone claims the
whole inbox for its machine.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from broker.delivery.machine import HOLDING, READING, READY
from broker.delivery.outbound import outbound_of
from broker.delivery.shared_machine import ENDLESS, READING_AGAIN, SharedMachine
from broker.pipeline import Step
from broker.sessions import Slot, Timeline
from storage.records import DeviceKey, Operation, Progress, Subscription

if TYPE_CHECKING:
    from broker.clock import Timer
    from broker.delivery.machine import Machine
    from broker.delivery.ports import Node
    from broker.sessions import Session
    from storage.records import InboxEntry, Message

log = logging.getLogger(__name__)


class SharedGroup:
    """See the module."""

    __slots__ = ("_server", "_task", "ended", "filter", "inbox", "machine", "saving", "timer")

    def __init__(self, server: Node, inbox: Timeline, filter_: str) -> None:
        self._server = server
        self.inbox = inbox
        self.filter = filter_
        self.machine = SharedMachine(inbox, server.time)
        self.timer: Timer | None = None
        """The group's end, while it has no members."""
        self.ended = False
        self.saving = False
        self._task: asyncio.Task[None] | None = None

    @property
    def key(self) -> DeviceKey:
        """The group as a device of storage."""
        return DeviceKey(self.inbox, "")

    def progress(self) -> Progress:
        """The group's offset and what is pending, to be stored."""
        machine = self.machine
        return Progress(self.key, 0, machine.offset, machine.cursor, machine.inflight)

    def open(self, position: int, head: int) -> None:
        """The group is stored: all that follows ``position`` is given out here."""
        self.machine.claimed(position + 1, ENDLESS, head)

    def close(self) -> None:
        """Nobody reads any more."""
        self.no_timer()
        self.ended = True
        self.machine.closed()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def no_timer(self) -> None:
        """The group does not end."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    # --- members -------------------------------------------------------------------------------------------------------

    def join(self, session: Session, subscription: Subscription) -> None:
        """Add a member, or replace its options; `pump` follows."""
        self.no_timer()
        outbound = outbound_of(session)
        self.machine.joined(session, subscription, outbound.machine if outbound is not None else None)

    def came(self, session: Session, machine: Machine) -> None:
        """A member's connection begins; `pump` follows."""
        self.machine.came(session, machine)

    def leave(self, session: Session) -> list[Operation]:
        """The member unsubscribed, or its session ended. What is to be stored with that; `pump` follows."""
        self.touch()
        if not self.machine.left(session):
            return []
        return [self.progress(), session.progress()] if session.durable and not session.ended else [self.progress()]

    def gone(self, session: Session, *, lost: bool) -> None:
        """The member's connection ended; ``lost``: as the device has connected through another node."""
        self.machine.gone(session)
        self.touch()
        if session.durable:
            self._server.delivery.save(session)  # that it has not what it was not sent: before another member has
        self.pump()

    def granted(self, session: Session) -> tuple[Subscription, ...]:
        """The member's subscription; none where it is no member any more."""
        subscription = self.machine.members.get(session)
        return () if subscription is None else (subscription,)

    def finished(self, session: Session, slot: Slot) -> None:
        """A member acknowledged to the end."""
        self.machine.finished(slot)
        self.touch()

    def received_at(self, seq: int) -> None:
        """A member has received a message at QoS 2; stored with the next group."""
        self.machine.received_at(seq)
        self.save()

    # --- giving out ----------------------------------------------------------------------------------------------------

    def push(self, entry: InboxEntry) -> None:
        """A committed entry; `pump` follows."""
        self.machine.push(entry)

    def in_storage(self, seq: int) -> None:
        """Entries up to this one are committed, and to be read; `pump` follows."""
        self.machine.in_storage(seq)

    def has_room(self, session: Session) -> None:
        """A member may have got room."""
        self.machine.has_room(session)
        self.pump()

    def pump(self) -> None:
        """Write what the members have room for."""
        machine = self.machine
        if machine.state != READY:
            return
        by_member = machine.step()
        if machine.progressed:
            self.touch()
        for session, frames in by_member.items():
            outbound = outbound_of(session)
            assert outbound is not None
            outbound.write_of_group(frames)
            if outbound.machine.state == HOLDING:
                self.holding()
        if machine.state in (READING, READING_AGAIN) and self._task is None:
            self._read()
        self._server.delivery.count(machine.reader)

    def holding(self) -> None:
        """A member's machine holds a message until the member's progress is stored: so is the group's, in the same commit, so
        that no other member is ever given this message."""
        self.save()

    def _read(self) -> None:
        """Get what the machine awaits."""
        machine, limits = self.machine, self._server.settings.limits
        limit = 1 if machine.state == READING_AGAIN else limits.page_entries
        reading = self._read_page(machine.after, limit, machine.reader.head.seq)
        self._task = asyncio.create_task(reading, name=f"read {self.inbox}")
        self._task.add_done_callback(self._read_ended)

    async def _read_page(self, after: int, limit: int, head: int) -> None:
        delivery = self._server.delivery
        read = partial(delivery.reader.read_inbox, self.inbox, after, limit, self._server.settings.limits.page_bytes)
        page = await delivery.persist(self.inbox, read)
        self._task = None
        self.machine.page_came(page, after, head)
        self.pump()

    def _read_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal error in the shared subscription %s", self.inbox, exc_info=error)

    def live(self, message: Message, passed: tuple[Session, ...] = ()) -> None:
        """Give a message that no inbox holds to a connected member that has not ``passed`` it, if there is one."""
        member = self.machine.for_one_here(passed)
        if member is not None:
            outbound = outbound_of(member)
            assert outbound is not None
            outbound.transient(message, self, passed)
            outbound.pump()

    # --- what is stored --------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """The group's offset moved; it is stored within a second."""
        self._server.delivery.touch_shared_group(self)

    def save(self) -> None:
        """Store the group's progress with the next group."""
        if not self.saving:
            self.saving = True
            self._server.pipeline.submit(SaveGroup(self))


class SaveGroup(Step):
    """Stores a group's progress, as it is when its place in the order comes."""

    __slots__ = ("_group",)

    def __init__(self, group: SharedGroup) -> None:
        self._group = group

    def apply(self) -> list[Operation]:
        self._group.saving = False
        return [] if self._group.ended else [self._group.progress()]
