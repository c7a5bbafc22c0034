"""One shared subscription (MQTT 5, 4.8.2): a group of sessions that divides one stream of messages.

A group has an inbox of its own (`s/<share name>/<filter>`) and its own offset in storage, as a device without a client id. So
what is published while no member is connected waits, and is neither lost nor given twice.

- Each message goes to one member, the connected one with the most room of the next few in turn. Who may not have it, or
  takes nothing so large, leaves it to the others. Where all who are connected do, it is kept for the absent members while
  their sessions live, and the group goes on; it is given up where no member is left that could take it [MQTT-3.1.2-25].
- A message that is not kept for inboxes (`$SYS`, policies `store` and `none`) goes to one member that is connected, or to none.
- QoS 1 that a member did not acknowledge goes to another when its connection ends. QoS 2 in progress stays with its member
  and ends with the member's session [MQTT-4.8.2-4, MQTT-4.8.2-5].
- The last member that unsubscribes ends the group; one whose members merely left is kept for ``share_expiry``.

Over 300 lines: one loop, and the state that it goes by.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import Container
from functools import partial
from typing import TYPE_CHECKING

from broker.delivery.outbound import outbound_of
from broker.pipeline import Step
from broker.sessions import PUBLISHED_1, RELEASED, Cursor, Head, Slot, Timeline
from storage.records import (
    EXPIRES_AT_ONCE,
    Device,
    DeviceKey,
    Inflight,
    Operation,
    Progress,
    Subscription,
)

if TYPE_CHECKING:
    from broker.clock import Timer
    from broker.delivery.outbound import Outbound
    from broker.delivery.ports import Node
    from broker.sessions import Session
    from storage.records import InboxEntry, Message

_CANDIDATES = 8
"""How many members in turn are compared by their room for one message."""

MOST_KEPT = 1000
"""Messages kept for absent members; with so many the group waits for one of them, and drops nothing."""


class Share:
    """One group: its members, and how far it got in its inbox.

    ``reader`` is its cursor, at the last entry given to a member; ``pending`` says which of those before it are not done, and
    who has them (None: nobody, they are to be given again). ``received`` are those of them that a member has received at QoS
    2: nobody is given them again. That is durable before the member hears PUBREL, and so before its own state can forget them.
    """

    __slots__ = (
        "_kept",
        "_redo",
        "_returned",
        "_server",
        "_task",
        "ended",
        "filter",
        "inbox",
        "members",
        "opened",
        "pending",
        "reader",
        "received",
        "saving",
        "timer",
        "turn",
    )

    def __init__(self, server: Node, inbox: Timeline, filter_: str) -> None:
        self._server = server
        self.inbox = inbox
        self.filter = filter_
        self.timer: Timer | None = None
        """The group's end, while it has no members."""
        self.reader = Cursor(Head(0), 0)
        self.opened = False
        """The group is stored, and where its cursor is, is known: messages are given out."""
        self.ended = False
        self.members: dict[Session, Subscription] = {}
        self.turn: deque[Session] = deque()
        self.pending: dict[int, Session | None] = {}
        self.received: set[int] = set()
        self.saving = False
        self._redo: list[int] = []
        self._kept: list[int] = []
        """What only an absent member could take: pending, and offered to all again when a member comes or goes."""
        self._returned: InboxEntry | None = None
        """The next entry that is given again."""
        self._task: asyncio.Task[None] | None = None

    @property
    def key(self) -> DeviceKey:
        """The group as a device of storage."""
        return DeviceKey(self.inbox, "")

    @property
    def cursor(self) -> int:
        """The last entry that was given to a member."""
        return self.reader.position

    @property
    def offset(self) -> int:
        """The highest entry up to which all are done."""
        return min(self.pending, default=self.cursor + 1) - 1

    def progress(self) -> Progress:
        """The group's offset and what is pending, to be stored."""
        received = self.received
        inflight = [Inflight(0, seq, RELEASED if seq in received else PUBLISHED_1) for seq in sorted(self.pending)]
        return Progress(self.key, 0, self.offset, self.cursor, inflight)

    # --- members -------------------------------------------------------------------------------------------------------

    def no_timer(self) -> None:
        """The group does not end."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def join(self, session: Session, subscription: Subscription) -> None:
        """Add a member, or replace its options."""
        self.no_timer()
        if session not in self.members:
            self.turn.append(session)
        self.members[session] = subscription
        self.came()

    def came(self) -> None:
        """A member is here that may take what was kept; `pump` follows."""
        if self._kept:
            self._redo = sorted(self._redo + self._kept)
            self._kept = []

    def granted(self, session: Session) -> tuple[Subscription, ...]:
        """The member's subscription; none where it is no member any more."""
        subscription = self.members.get(session)
        return () if subscription is None else (subscription,)

    def leave(self, session: Session) -> None:
        """The member unsubscribed, or its session ended: what it had not acknowledged goes to the others."""
        if self.members.pop(session, None) is not None:
            self.turn.remove(session)
        self.came()  # to give up what was kept for this one alone
        self.hand_back(session, ended=True)

    def hand_back(self, session: Session, *, ended: bool = False) -> None:
        """The member's connection ended: take back what it did not acknowledge, but for QoS 2 while its session lives."""
        for slot in session.window.pending():
            if slot.timeline != self.inbox:
                continue
            if slot.state is PUBLISHED_1:
                session.window.drop(slot.packet_id)
                self.pending[slot.seq] = None
                bisect.insort(self._redo, slot.seq)
            elif ended or not session.durable:
                session.window.drop(slot.packet_id)
                self._done(slot.seq)
        self.touch()
        self.pump()

    def finished(self, slot: Slot) -> None:
        """A member acknowledged to the end."""
        self._done(slot.seq)
        self.touch()

    def received_at(self, seq: int) -> None:
        """A member has received a message at QoS 2; stored with the next group."""
        self.received.add(seq)
        self.save()

    def _done(self, seq: int) -> None:
        self.pending.pop(seq, None)
        self.received.discard(seq)

    def restore(self, device: Device) -> None:
        """Take up the stored state; members' own windows say later which pending messages are still with them."""
        self.reader.move(device.cursor)
        self.pending = {entry.seq: None for entry in device.inflight}
        self.received = {entry.seq for entry in device.inflight if entry.state is RELEASED}

    def reconcile(self) -> None:
        """After all sessions were loaded: what no member has in flight is to be given again, unless one has received it.

        A member's state may be newer than the group's; what others were given since the group's was stored counts as not given.
        """
        with_members = {
            slot.seq: session for session in self.members for slot in session.window.pending() if slot.timeline == self.inbox
        }
        newest = max(with_members, default=0)
        self.pending.update(dict.fromkeys(range(self.cursor + 1, newest + 1)))
        self.reader.move(max(self.cursor, newest))
        self.pending.update(with_members)
        for seq in self.received - with_members.keys():
            self._done(seq)
        self._redo = sorted(seq for seq, holder in self.pending.items() if holder is None)

    # --- the loop ------------------------------------------------------------------------------------------------------

    def open(self, position: int, head: int) -> None:
        """The group is stored: give out what follows ``position``."""
        self.reader.head.seq = max(self.reader.head.seq, head)
        self.reader.move(position)
        self.opened = True

    def push(self, entry: InboxEntry) -> None:
        """A committed entry; `pump` follows."""
        head = self.reader.head
        if entry.seq > head.seq:
            if entry.seq != head.seq + 1:
                self.reader.fall_behind()
            head.seq = entry.seq
            self.reader.push(entry)

    def pump(self) -> None:
        """Give out entries for as long as a member has room."""
        if not self.opened or self._task is not None:
            return
        touched: dict[Outbound, None] = {}
        while self._give_next(touched):
            pass
        for outbound in touched:
            outbound.flush()
        if self.reader.waiting and not any(member.connection is not None for member in self.members):
            self.reader.fall_behind()
        self._server.delivery.count(self.reader)

    def _give_next(self, touched: dict[Outbound, None]) -> bool:
        """Give out one entry. False if there is none, nobody has room for it, or a page is awaited."""
        entry = self._peek() if self._task is None else None
        if entry is None:
            return False
        message = entry.message
        holder: Session | None = None
        done = True
        if message is not None and not self._expired(message):
            outcome = self._offer(entry, message, touched)
            if outcome is None:
                return False
            holder, done = outcome
            if not done and holder is None and message.expires == EXPIRES_AT_ONCE:
                done = True  # who is absent is not given it
            elif not done and holder is None:
                if len(self._kept) >= MOST_KEPT:
                    return False
                self._kept.append(entry.seq)
        if done:
            self._done(entry.seq)
        else:
            self.pending[entry.seq] = holder
        self._passed(entry)
        self.touch()
        return True

    def _offer(self, entry: InboxEntry, message: Message, touched: dict[Outbound, None]) -> tuple[Session | None, bool] | None:
        """Find the member that takes the message: who has it (None: nobody), and whether it is done with. None if it must wait.

        A member that may not receive its topic, or takes nothing so large, leaves it to the others.
        """
        passed: set[Session] = set()
        while True:
            member = self._choose(passed)
            if member is None:
                return (None, not self._somebody_absent()) if passed and not self._others(passed) else None
            outbound = outbound_of(member)
            assert outbound is not None
            in_flight = len(member.window)
            taken = outbound.give_of_group(message, self, entry.seq, self._live(entry))
            if taken is None:
                return None  # an ACL plugin's answer is awaited; the outbound pumps again when it is there
            if not taken:
                passed.add(member)
                continue
            self._took_turn(member)
            touched[outbound] = None
            return member, len(member.window) == in_flight

    def _live(self, entry: InboxEntry) -> bool:
        return self.reader.live and entry is not self._returned

    def _expired(self, message: Message) -> bool:
        """Where an interval of 0 is concerned, only a live cursor's member may have it: the outbound knows."""
        if message.expires == EXPIRES_AT_ONCE and self.reader.live and self._returned is None:
            return False
        return 0 < message.expires <= self._server.time.now()

    def _somebody_absent(self) -> bool:
        return any(member.connection is None for member in self.members)

    def _others(self, passed: set[Session]) -> bool:
        """Whether a member is here that has not passed the message over, and only has no room now."""
        return any(member.connection is not None and member not in passed for member in self.members)

    def _choose(self, passed: Container[Session] = ()) -> Session | None:
        """The next member in turn that has not ``passed``, or one of the few after it that has more room; None if nobody
        has any."""
        best, best_room, compared = None, 0, 0
        away = []
        for session in self.turn:
            outbound = outbound_of(session)
            if outbound is None or not outbound.ready:
                away.append(session)
                continue
            if session in passed:
                continue
            room = min(session.window.room, outbound.connection.send_quota - session.window.on_wire)
            if room > best_room:
                best, best_room = session, room
            compared += 1
            if compared >= _CANDIDATES:
                break
        for session in away:  # to the end, so that they are not looked at first for every message
            self.turn.remove(session)
            self.turn.append(session)
        return best

    def live(self, message: Message, passed: tuple[Session, ...] = ()) -> None:
        """Give a message that no inbox holds to a connected member that has not ``passed`` it, if there is one."""
        member = self._choose(passed) or self._least_waiting(passed)
        if member is not None:
            outbound = outbound_of(member)
            assert outbound is not None
            self._took_turn(member)
            outbound.transient(message, self, passed)
            outbound.pump()

    def _least_waiting(self, passed: Container[Session]) -> Session | None:
        """Of the connected members, none of whom has room now, the one that owes itself the least."""
        best, fewest = None, 0
        for session in self.turn:
            outbound = outbound_of(session)
            if outbound is not None and session not in passed and (best is None or outbound.waiting < fewest):
                best, fewest = session, outbound.waiting
        return best

    def _took_turn(self, member: Session) -> None:
        self.turn.remove(member)
        self.turn.append(member)

    def _peek(self) -> InboxEntry | None:
        if self._returned is not None:
            return self._returned
        if self._redo:
            self._fetch(self._redo[0] - 1, 1, again=True)
            return None
        entry = self.reader.peek()
        if entry is None and self.reader.needs_page:
            self._fetch(self.reader.position, self._server.settings.limits.page_entries, again=False)
        return entry

    def _passed(self, entry: InboxEntry) -> None:
        if entry is self._returned:
            self._returned = None
            self._redo.remove(entry.seq)
        else:
            self.reader.advance(entry)

    def _fetch(self, after: int, limit: int, *, again: bool) -> None:
        if self._choose() is not None:
            self._task = asyncio.create_task(self._fetch_page(after, limit, again), name=f"read {self.inbox}")

    async def _fetch_page(self, after: int, limit: int, again: bool) -> None:
        delivery, head = self._server.delivery, self.reader.head.seq
        read = partial(delivery.reader.read_inbox, self.inbox, after, limit, self._server.settings.limits.page_bytes)
        page = await delivery.persist(self.inbox, read)
        self._task = None
        if not again:
            self.reader.take_page(page, after, head)
        elif page and page[0].seq == after + 1:
            if after + 1 in self._redo:
                self._returned = page[0]
        elif after + 1 in self._redo:  # retention removed it
            self._redo.remove(after + 1)
            self._done(after + 1)
        self.pump()

    def close(self) -> None:
        """Nobody reads any more."""
        self.no_timer()
        self.opened = False
        self.ended = True
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # --- what is stored --------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """The group's offset moved; it is stored within a second."""
        self._server.delivery.touch_share(self)

    def save(self) -> None:
        """Store the group's progress with the next group."""
        if not self.saving:
            self.saving = True
            self._server.pipeline.submit(SaveShare(self))


class SaveShare(Step):
    """Stores a group's progress, as it is when its place in the order comes."""

    __slots__ = ("_share",)

    def __init__(self, share: Share) -> None:
        self._share = share

    def apply(self) -> list[Operation]:
        self._share.saving = False
        return [] if self._share.ended else [self._share.progress()]
