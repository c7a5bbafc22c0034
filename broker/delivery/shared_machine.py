"""Which member of a shared subscription is given what, and when (MQTT 5, 4.8.2): a state machine without I/O.

A group of sessions divides one stream of messages. It has an inbox of its own, and its own offset in storage, as a device
without a client id. So what is published while no member is connected waits, and is neither lost nor given twice.

`step` gives out entries for as long as a member has room, and says which frames go to whom. What has to come from outside
before it can go on is the state:

| state | it awaits | event that ends it | then |
|---|---|---|---|
| READY | an entry, or a member with room | `step`, called again | frames for members |
| READING | a page of what follows | `page_came` | READY |
| READING_AGAIN | an entry that is given again, from storage | `page_came` | READY |
| CLOSED | nothing; the group ended | | |

Each entry of the inbox is in one of these places:

| it is | as | until |
|---|---|---|
| not looked at | after the cursor, in a range that was `claimed` | `step` passes it; `give_back` |
| with a member | ``pending``, with the member | `finished`; `gone` and `left`, as below |
| given again | ``pending``, with nobody | `step`: to a member, before all else; `give_back` |
| kept for others | the same | a member comes or leaves: it is given again; `refuse`; `give_back` |
| done | no more in ``pending`` | |

Rules kept here:

- An entry goes to one member, the connected one with the most room of the next few in turn. Who may not have it, or takes
  nothing so large, leaves it to the others. Where all who are connected do, it is kept for the absent members while their
  sessions live, and the group goes on; it is given up where no member is left that could take it [MQTT-3.1.2-25].
- QoS 1 that a member did not acknowledge goes to another when its connection ends. So does QoS 2 that was still held for its
  state to be durable. QoS 2 that was sent stays with its member, and ends with the member's session [MQTT-4.8.2-4,
  MQTT-4.8.2-5].
- Only entries of ranges that were claimed are given out. A range is told as `done` once all of it is, but for what was
  given back.
- The offset moves only over what is done.
- A member that has no room costs nothing until it has some.

Where nodes divide a group, ``members`` are those that are connected here, and ``elsewhere`` says whether there are others. What
is kept for those their nodes are to have (`refuse`).

Over 300 lines: one state machine.
"""

from __future__ import annotations

import bisect
from collections.abc import Container
from typing import TYPE_CHECKING, Final

from broker.delivery.machine import CLOSED, HOLDING, READING, READY
from broker.sessions import PUBLISHED_1, RELEASED, Cursor, Head, Slot, Timeline
from storage.records import EXPIRES_AT_ONCE, Device, InboxEntry, Inflight, Message, Subscription
from storage.shared_inboxes import SeqRange, joined, singles

if TYPE_CHECKING:
    from broker.clock import ServerTime
    from broker.delivery.machine import Machine
    from broker.sessions import Session

READING_AGAIN: Final = 6
"""Beside the states of `broker.delivery.machine`."""

MOST_KEPT = 1000
"""Messages kept for absent members; with so many the group waits for one of them, and drops nothing."""

ENDLESS: Final = 1 << 62
"""The end of a range that has none."""

_CANDIDATES = 8
"""How many members in turn are compared by their room for one message."""


class SharedMachine:
    """See the module.

    ``reader`` is its cursor, at the last entry that was given to a member or passed over. ``pending`` says which of those
    before it are not done, and who has them (None: nobody). ``received`` are those of them that a member has received at QoS
    2: nobody is given them again. That is durable before the member hears PUBREL, and so before its own state can forget them.
    """

    __slots__ = (
        "_again",
        "_committed",
        "_here",
        "_kept",
        "_ranges",
        "_read",
        "_returned",
        "_time",
        "_turn",
        "after",
        "elsewhere",
        "inbox",
        "members",
        "pending",
        "progressed",
        "reader",
        "received",
        "state",
    )

    def __init__(self, inbox: Timeline, time: ServerTime) -> None:
        self.inbox = inbox
        self._time = time
        self.state: int = READY
        self.progressed = False
        """The last `step` passed an entry."""
        self.after = 0
        """READING and READING_AGAIN: the entry after which to read; of READING_AGAIN only the next one."""
        self.members: dict[Session, Subscription] = {}
        self.elsewhere = False
        self.pending: dict[int, Session | None] = {}
        self.received: set[int] = set()
        self.reader = Cursor(Head(0), 0)  # its head is the highest entry that may be looked at
        self._committed = 0
        self._ranges: list[SeqRange] = []
        """Claimed, and not looked at to the end; the cursor is in the first."""
        self._read: list[SeqRange] = []
        """Looked at to the end, and not known to be done."""
        self._here: dict[Session, Machine] = {}
        """The members that are connected."""
        self._turn: dict[Session, None] = {}
        """Of these, who may have room, in the order of their turns."""
        self._again: list[int] = []
        self._kept: list[int] = []
        self._returned: InboxEntry | None = None
        """The next entry that is given again."""

    @property
    def cursor(self) -> int:
        """The last entry that was looked at."""
        return self.reader.position

    @property
    def offset(self) -> int:
        """The highest entry up to which all that this group was to give out is done."""
        return min((self.cursor + 1, *self.pending, *(s.first for s in self._ranges[1:]))) - 1

    @property
    def inflight(self) -> list[Inflight]:
        """What is pending, to be stored."""
        received = self.received
        return [Inflight(0, seq, RELEASED if seq in received else PUBLISHED_1) for seq in sorted(self.pending)]

    @property
    def room(self) -> int:
        """How many more messages the connected members could take now."""
        return sum(machine.room for machine in self._here.values())

    @property
    def idle(self) -> bool:
        """All that was claimed was looked at, and nothing is given again."""
        if self.state != READY or self._again or self._returned is not None:
            return False
        return not self._ranges or (len(self._ranges) == 1 and self.reader.position >= self._ranges[0].last)

    def outstanding(self) -> list[SeqRange]:
        """What was claimed and is not done."""
        found = [SeqRange(seq, seq) for seq in self.pending]
        for place, (first, last) in enumerate(self._ranges):
            found.append(SeqRange(first if place else max(first, self.reader.position + 1), last))
        return joined(part for part in found if part.first <= part.last)

    # --- ranges -----------------------------------------------------------------------------------------------------

    def claimed(self, first: int, last: int, head: int) -> None:
        """The entries from ``first`` to ``last`` are this group's to give out here. ``head`` is where the inbox ends, as far as
        is known; a range may go on after it. Ranges are given out in the order in which they are claimed."""
        self._committed = max(self._committed, head)
        self._ranges.append(SeqRange(first, last))
        if len(self._ranges) == 1:
            self._begin()

    def _begin(self) -> None:
        """Go to the first entry of the range whose turn it is."""
        first, last = self._ranges[0]
        self.reader.head.seq = min(self._committed, last)
        self.reader.move(first - 1)

    def _end_of_range(self) -> bool:
        """The cursor has come to the end of its range: go to the next. False if it has not, or there is none."""
        if not self._ranges or self.reader.position < self._ranges[0].last:
            return False
        self._read.append(self._ranges.pop(0))
        if self._ranges:
            self._begin()
        return bool(self._ranges)

    def done(self) -> list[SeqRange]:
        """Ranges of which all is done, but for what was given back; each is told once."""
        done = [s for s in self._read if not any(s.first <= seq <= s.last for seq in self.pending)]
        self._read = [part for part in self._read if part not in done]
        return done

    @property
    def keeps(self) -> bool:
        """Something is kept for others."""
        return bool(self._kept)

    def refuse(self, most: int) -> list[SeqRange]:
        """Let go of up to ``most`` entries that are kept for others, and say what that is."""
        some, self._kept = self._kept[:most], self._kept[most:]
        for seq in some:
            del self.pending[seq]
        return singles(some)

    def give_back(self) -> list[SeqRange]:
        """Let go of all that no member has, and say what that is. What members have stays with them."""
        free = [seq for seq, holder in self.pending.items() if holder is None]
        for seq in free:
            del self.pending[seq]
        self._again, self._kept, self._returned = [], [], None
        given_back = [SeqRange(seq, seq) for seq in free]
        at = self.reader.position
        for first, last in self._ranges:
            looked_at = min(at, last) if first == self._ranges[0].first else first - 1
            if looked_at >= first:
                self._read.append(SeqRange(first, looked_at))
            if looked_at < last:
                given_back.append(SeqRange(max(first, looked_at + 1), last))
        self._ranges.clear()
        self.reader.head.seq = at
        self.reader.move(at)
        return joined(given_back)

    # --- members -------------------------------------------------------------------------------------------------------

    def joined(self, session: Session, subscription: Subscription, machine: Machine | None) -> None:
        """A member, or new options of one. ``machine`` is what its connection is due, where it is connected."""
        self.members[session] = subscription
        if machine is None:
            self._offer_kept()
        else:
            self.came(session, machine)

    def came(self, session: Session, machine: Machine) -> None:
        """A member's connection begins."""
        if session in self.members:
            self._here[session] = machine
            self._turn[session] = None
            self._offer_kept()

    def has_room(self, session: Session) -> None:
        """A member may have got room: called whenever it may."""
        if session in self._here:
            self._turn.setdefault(session)

    def gone(self, session: Session) -> None:
        """A member's connection ended: take back what it did not acknowledge, but for QoS 2 while its session lives."""
        self._take_back(session, ended=not session.durable)

    def moved(self, session: Session, *, lost: bool) -> list[int]:
        """A member's connection ended, and its session goes on wherever it connects next: what it has at QoS 2 is not pending
        here any more. ``lost``: it has connected elsewhere already, and may have been sent there what was still held here."""
        self._take_back(session, ended=not session.durable, lost=lost)
        self.members.pop(session, None)
        took = [seq for seq, holder in self.pending.items() if holder is session]
        for seq in took:
            del self.pending[seq]
        return took

    def withdraw(self, entries: Container[int]) -> None:
        """Let go of some of what is given again: whether anybody may have it is still to be seen."""
        for seq in [seq for seq in self._again if seq in entries]:
            self._again.remove(seq)
            del self.pending[seq]

    def left(self, session: Session) -> bool:
        """The member unsubscribed, or its session ended: what it had not acknowledged goes to the others. Whether QoS 2 ended
        with it: that is to be durable together with its leaving, or another would be given that after a crash."""
        self.members.pop(session, None)
        self._offer_kept()  # to give up what was kept for this one alone
        return self._take_back(session, ended=True)

    def _take_back(self, session: Session, *, ended: bool, lost: bool = False) -> bool:
        ended_2 = False
        machine = self._here.pop(session, None)
        self._turn.pop(session, None)
        for slot in session.window.pending():
            if slot.timeline != self.inbox:
                continue
            unsent = machine is not None and not lost and machine.take_back(slot.packet_id)
            if unsent or slot.state is PUBLISHED_1:
                session.window.drop(slot.packet_id)
                self.pending[slot.seq] = None
                bisect.insort(self._again, slot.seq)
            elif ended:
                session.window.drop(slot.packet_id)
                self._done(slot.seq)
                ended_2 = True
        return ended_2

    def _offer_kept(self) -> None:
        """Offer to all again what was kept for others."""
        if self._kept:
            self._again = sorted(self._again + self._kept)
            self._kept = []

    # --- other events --------------------------------------------------------------------------------------------------

    def in_storage(self, seq: int) -> None:
        """Entries up to this one are committed, and to be read; `step` follows."""
        if seq > self._committed:
            self.reader.fall_behind()
            self.push(InboxEntry(seq, None))

    def push(self, entry: InboxEntry) -> None:
        """A committed entry; `step` follows."""
        committed = self._committed
        if entry.seq <= committed:
            return
        self._committed = entry.seq
        reader, last = self.reader, self._ranges[0].last if self._ranges else 0
        if entry.seq != committed + 1:
            reader.fall_behind()
        if entry.seq <= last:
            reader.head.seq = entry.seq
            reader.push(entry)
        elif reader.head.seq < last:
            reader.head.seq = last

    def page_came(self, entries: list[InboxEntry], after: int, head: int) -> None:
        """Entries that were read from after ``after``, as `Cursor.take_page` wants them."""
        if self.state == READING:
            self.reader.take_page(entries, after, head)
        elif self.state == READING_AGAIN and after + 1 in self._again:
            if entries and entries[0].seq == after + 1:
                self._returned = entries[0]
            else:  # retention removed it
                self._again.remove(after + 1)
                self._done(after + 1)
        if self.state != CLOSED:
            self.state = READY

    def finished(self, slot: Slot) -> None:
        """A member acknowledged to the end."""
        self._done(slot.seq)

    def received_at(self, seq: int) -> None:
        """A member has received a message at QoS 2; to be durable before its PUBREL is sent."""
        self.received.add(seq)

    def _done(self, seq: int) -> None:
        self.pending.pop(seq, None)
        self.received.discard(seq)

    def closed(self) -> None:
        """The group ended."""
        self.state = CLOSED

    # --- after a start -------------------------------------------------------------------------------------------------

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
        self._again = sorted(seq for seq, holder in self.pending.items() if holder is None)

    # --- giving out ----------------------------------------------------------------------------------------------------

    def step(self) -> dict[Session, list[bytes]]:
        """Give out entries for as long as a member has room: the frames to write now, by member.

        A member that is named may have no frames: what its own machine awaits from here on is that machine's state.
        """
        by_member: dict[Session, list[bytes]] = {}
        self.progressed = False
        while self.state == READY and self._give_next(by_member):
            pass
        if self.reader.waiting and not self._here:
            self.reader.fall_behind()
        return by_member

    def _give_next(self, by_member: dict[Session, list[bytes]]) -> bool:
        """Give out one entry. False if there is none, nobody has room for it, or something is awaited."""
        entry = self._peek()
        if entry is None:
            return False
        message = entry.message
        live = entry is not self._returned and self.reader.live
        holder: Session | None = None
        done = True
        if message is not None and not (message.expires and message.expired(self._time.now(), live)):
            outcome = self._offer(entry.seq, message, live, by_member)
            if outcome is None:
                return False
            holder, done = outcome
            if not done and holder is None:
                if message.expires == EXPIRES_AT_ONCE:
                    done = True  # who is absent is not given it
                elif len(self._kept) >= MOST_KEPT:
                    return False
                else:
                    self._kept.append(entry.seq)
        if done:
            self._done(entry.seq)
        else:
            self.pending[entry.seq] = holder
        self._passed(entry)
        return True

    def _peek(self) -> InboxEntry | None:
        """The next entry; None where there is none, or it has to be read first."""
        if self._returned is not None:
            return self._returned
        if self._again:
            self._await(READING_AGAIN, self._again[0] - 1)
            return None
        entry = self.reader.peek()
        while entry is None and self._end_of_range():
            entry = self.reader.peek()
        if entry is None and self.reader.needs_page:
            self._await(READING, self.reader.position)
        return entry

    def _await(self, state: int, after: int) -> None:
        """Have something read, where somebody could take it."""
        if self._choose() is not None:
            self.state = state
            self.after = after

    def _passed(self, entry: InboxEntry) -> None:
        if entry is self._returned:
            self._returned = None
            self._again.remove(entry.seq)
        else:
            self.reader.advance(entry)
        self.progressed = True

    def _offer(
        self, seq: int, message: Message, live: bool, by_member: dict[Session, list[bytes]]
    ) -> tuple[Session | None, bool] | None:
        """Find the member that takes the message: who has it (None: nobody), and whether it is done. None if it must wait."""
        passed: set[Session] = set()
        while True:
            member = self._choose(passed)
            if member is None:
                if not passed or len(passed) < len(self._here):
                    return None  # another is here, and only has no room now
                return None, len(self._here) == len(self.members) and not self.elsewhere
            machine = self._here[member]
            in_flight = len(member.window)
            frames = machine.give_of_group(message, self.members[member], seq, self.inbox, live)
            if frames is None:
                by_member.setdefault(member, [])  # it asks whether it may receive the topic
                return None
            if not frames:
                passed.add(member)
                continue
            written = by_member.setdefault(member, [])
            if machine.state != HOLDING:
                written += frames
            self._took_turn(member)
            return member, len(member.window) == in_flight

    def _choose(self, passed: Container[Session] = ()) -> Session | None:
        """The next member in turn that has not ``passed``, or one of the few after it that has more room; None if nobody
        has any."""
        best, best_room, compared = None, 0, 0
        full = []
        for session in self._turn:
            if session in passed:
                continue
            room = self._here[session].room
            if not room:
                full.append(session)
                continue
            if room > best_room:
                best, best_room = session, room
            compared += 1
            if compared >= _CANDIDATES:
                break
        for session in full:
            del self._turn[session]
        return best

    def _took_turn(self, member: Session) -> None:
        self._turn.pop(member, None)
        self._turn[member] = None

    # --- messages that no inbox holds ------------------------------------------------------------------------------------

    def for_one_here(self, passed: Container[Session]) -> Session | None:
        """Who of the connected members that have not ``passed`` it is given such a message: with room, or with the least
        that waits for some."""
        member = self._choose(passed) or self._least_waiting(passed)
        if member is not None:
            self._took_turn(member)
        return member

    def _least_waiting(self, passed: Container[Session]) -> Session | None:
        best, fewest = None, 0
        for session, machine in self._here.items():
            if session not in passed and (best is None or machine.waiting < fewest):
                best, fewest = session, machine.waiting
        return best
