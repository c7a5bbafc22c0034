"""What goes out to a device: the shell around its delivery machine. It reads pages, asks access control, and writes.

What is due, and when, is the machine's (`broker.delivery.machine`). Here is only how what it awaits is got.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING

from amqtt.contexts import Action

from broker.delivery.machine import ASKING, HOLDING, READING, READY, SENDING_AGAIN, Extra, Machine
from broker.packets import PacketType, ReasonCode, ack_frame
from broker.sessions import Cursor, Member, OutboundPort, Session, Slot, is_channel
from storage.records import Message

if TYPE_CHECKING:
    from broker.delivery.delivery import Delivery, Inbox
    from broker.delivery.shared_group import SharedGroup
    from broker.sessions import Link

log = logging.getLogger(__name__)


def outbound_of(session: Session) -> Outbound | None:
    """What delivers to the session's connection, where it has one that is open."""
    link = session.connection
    outbound = link.outbound if link is not None else None
    return outbound if isinstance(outbound, Outbound) else None


class Release:
    """A PUBREL that may be sent once the session's progress is durable."""

    __slots__ = ("frame", "outbound")

    def __init__(self, outbound: Outbound, frame: bytes) -> None:
        self.outbound = outbound
        self.frame = frame

    def progress_saved(self) -> None:
        if not self.outbound.closed:
            self.outbound.connection.write_frames([self.frame])


class Outbound(OutboundPort):
    """What serves one connection of a session. ``inbox`` is None for a clean one, which is on the store's tail."""

    __slots__ = ("_task", "closed", "connection", "cursor", "delivery", "inbox", "machine", "session", "woken")

    def __init__(self, delivery: Delivery, session: Session, cursor: Cursor, inbox: Inbox | None) -> None:
        assert session.connection is not None
        self.delivery = delivery
        self.session = session
        self.connection: Link = session.connection
        self.cursor = cursor
        self.inbox = inbox
        self.machine = Machine(
            session,
            cursor,
            self.connection,
            delivery.trie,
            delivery.access,
            delivery.counters,
            delivery.time,
            delivery.recalled,
        )
        self.closed = False
        self.woken: list[Outbound] | None = None
        """Those that the last commit with something for it woke."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send again what was in flight, then go on from the cursor."""
        if self.session.shared_filters:
            self.delivery.shared_groups.came(self.session, self.machine)
        self.pump()

    def close(self) -> None:
        """The connection ended; nothing more is written."""
        self.closed = True
        self.machine.closed()
        self._cancel()

    def moved(self) -> None:
        """The session's cursor was set; `pump` follows."""
        self.machine.moved()
        self._cancel()

    def wake_with(self, woken: list[Outbound]) -> None:
        """Be one of those that a commit wakes, once."""
        if self.woken is not woken:
            self.woken = woken
            woken.append(self)

    # --- frames out ----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Write what the socket and the window have room for."""
        if self.closed:
            return
        try:
            self._pump()
        except Exception as error:  # noqa: BLE001 - logged there; one device's fault must not stop the others
            self._failed(error)

    def _pump(self) -> None:
        machine, connection = self.machine, self.connection
        while machine.state == READY and connection.writable:
            frames = machine.step()
            if frames:
                connection.write_frames(frames)
            if machine.passed_on is not None:
                self._pass_on(machine.passed_on)
            if machine.progressed and not len(self.session.window):
                self.delivery.touch(self.session)
            if machine.state != READY:
                self._await(machine.state)
            elif not machine.more:
                break
        cursor = self.cursor
        if cursor.bytes != cursor.counted or cursor.waiting:
            self.delivery.count(cursor)
        if machine.members is not None:
            self._count_channels(machine.members)
        if self.session.shared_filters:
            self.delivery.pump_shared_groups(self.session)

    def _count_channels(self, members: list[Member]) -> None:
        for member in members:
            cursor = member.reader
            if cursor is not None and (cursor.bytes != cursor.counted or cursor.waiting):
                self.delivery.count(cursor)

    def _pass_on(self, extras: list[Extra]) -> None:
        """Messages of groups that are not for this member: each is for another."""
        self.machine.passed_on = None
        for extra in extras:
            if extra.group is not None:
                extra.group.live(extra.message, (*extra.passed, self.session))

    def _failed(self, error: BaseException) -> None:
        """Our bug: it costs this client its connection, and must not leave it waiting for ever."""
        log.error("internal error in delivery to %s", self.connection.name, exc_info=error, extra=self.connection.about)
        self.connection.disconnect(ReasonCode.UNSPECIFIED_ERROR, "internal error")

    # --- what the machine awaits -----------------------------------------------------------------------------------------

    def _await(self, state: int) -> None:
        if state == HOLDING:
            self.delivery.save(self.session).then.append(self)
        elif state == READING:
            self._run(self._read(), "read page")
        elif state == ASKING:
            self._run(self._ask(), "receive acl")
        elif state == SENDING_AGAIN:
            self._run(self._send_again(), "resend")

    def _run(self, work: Coroutine[object, object, None], name: str) -> None:
        self._task = asyncio.create_task(work, name=name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _read(self) -> None:
        cursor = self.machine.reading
        after, head = cursor.position, cursor.head.seq
        page = await self.delivery.read_page(self.session, cursor.head, after)
        self._task = None
        self.machine.page_came(page, after, head)
        self.pump()

    async def _ask(self) -> None:
        await self.delivery.access.settle(self.connection.info, Action.RECEIVE, self.machine.question)
        self._task = None
        self.machine.answered()
        self.pump()

    async def _send_again(self) -> None:
        """Read neighbours among what was in flight, in one page of their timeline."""
        run = self.machine.run
        assert run is not None
        timeline = run[0].timeline
        after, until = run[0].seq - 1, run[-1].seq
        delivery = self.delivery
        user = timeline or self.session.inbox
        read = partial(delivery.reader.read_inbox, user, after, until - after, delivery.limits.page_bytes)
        page = {entry.seq: entry for entry in await delivery.persist(self.session.key.client_id, read)}
        group = delivery.shared_groups.by_inbox(timeline) if timeline else None
        member = group.machine.members.get(self.session) if group is not None else None
        self._task = None
        frames, dropped, released = self.machine.in_flight_came(page, member)
        for slot in dropped:
            self.finished(slot)
        for slot in released:
            self.pubrel(slot)
        if frames:
            self.connection.write_frames(frames)
        self.pump()

    def progress_saved(self) -> None:
        """What the held frames wait for is durable."""
        frames = self.machine.durable()
        if frames:
            self.connection.write_frames(frames)
        self.pump()

    @property
    def idle(self) -> int:
        """By how many entries of a timeline the device has moved on without that being stored, at most."""
        moved = self.cursor.position - self.cursor.saved
        if self.machine.members is not None:
            moved = max(moved, max(member.idle for member in self.machine.members))
        return moved

    # --- acknowledgements ------------------------------------------------------------------------------------------------

    def pubrel(self, slot: Slot) -> None:
        """Send PUBREL, once the state that it stands for is durable."""
        self.delivery.counters.control_sent += 1
        frame = ack_frame(PacketType.PUBREL, slot.packet_id)
        group = self.delivery.shared_groups.by_inbox(slot.timeline) if slot.timeline else None
        if group is not None:
            group.received_at(slot.seq)
        if self.session.durable:
            self.delivery.save(self.session).then.append(Release(self, frame))
        else:
            self.connection.write_frames([frame])

    def finished(self, slot: Slot) -> None:
        """A message left the window: its timeline's offset may have moved."""
        timeline = slot.timeline
        if timeline and not is_channel(timeline):
            self.delivery.shared_groups.finished(self.session, slot)
        else:
            self.delivery.touch(self.session)

    # --- messages of shared subscriptions --------------------------------------------------------------------------------

    def write_of_group(self, frames: list[bytes]) -> None:
        """A group gave this member's machine something: write its frames, and get what it awaits since."""
        if frames and not self.closed:
            self.connection.write_frames(frames)
        self._await(self.machine.state)

    # --- messages that are in no timeline --------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many messages wait that no timeline holds."""
        return self.machine.waiting

    def retained(self, messages: list[Message]) -> None:
        """Retained messages for a new subscription that has no inbox to put them in; `pump` follows."""
        for message in messages:
            self.machine.no_timeline(message, retained=True, group=None, passed=())

    def transient(self, message: Message, group: SharedGroup | None = None, passed: tuple[Session, ...] = ()) -> None:
        """A message that no inbox holds, of a subscription of its own or of a group's: written soon, or never; `pump` follows.

        Where there is no room, QoS 0 is dropped and counted; QoS 1 and 2, which cannot be kept, disconnect the device.
        """
        if self.machine.no_timeline(message, retained=False, group=group, passed=passed):
            return
        self.delivery.counters.limit_queued_bytes += 1
        granted = self.machine.granted(message) if group is None else group.granted(self.session)
        if min(message.qos, max((s.options & 3 for s in granted), default=0)):
            self.delivery.counters.slow_disconnects += 1
            self.connection.disconnect(ReasonCode.QUOTA_EXCEEDED, "too slow for messages that are not stored")
        else:
            self.delivery.counters.publish_dropped += 1
