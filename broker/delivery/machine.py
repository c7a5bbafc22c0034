"""What one connection of a device is due, and when: a state machine without I/O.

`step` gives the frames to write now. What has to come from outside before it can go on is the state:

| state | it awaits | event that ends it | then |
|---|---|---|---|
| READY | room in the socket or the window | `step`, called again | the next frames |
| SENDING_AGAIN | messages in flight, from storage | `in_flight_came` | they are sent with DUP, in order |
| READING | a page of the timeline | `page_came` | READY |
| ASKING | whether the device may receive a topic | `answered` | READY |
| HOLDING | the session's progress to be durable | `durable` | the held frames, READY |
| CLOSED | nothing; the connection ended | | |

`moved` (the offset was set by hand) makes READY of all but HOLDING. `closed` ends every state.

In READY the order is: what was in flight when the last connection ended, what is in no timeline, the timeline. While
SENDING_AGAIN or behind, the cursor takes pages; live, what commits pushed (`broker.sessions.cursor`). A member of channels
reads several timelines, its inbox and those, in turn: each in its order, through the one window.

Rules kept here:

- An entry is looked at once, in order, and the cursor moves past it when it was written or is not due to the device.
- QoS is the lower of published and subscribed [MQTT-3.8.4-6]; overlapping subscriptions give one copy [MQTT-3.3.5-1].
- QoS 2 to a durable session: packet id and state are durable before PUBLISH, and again before PUBREL is sent.
- What was in flight when the connection ended is sent again first, in order, with DUP and the same identifier [MQTT-4.4.0-1],
  also where it has expired since [MQTT-4.3.3-7].
- A message larger than the client takes is passed over as if it had been delivered [MQTT-3.1.2-25].
- A message whose expiry interval is 0 goes to whom the commit found live, and to nobody else.

Over 300 lines: one state machine.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.access import RECEIVE
from broker.delivery.frames import about, frame_parts, personal_parts
from broker.delivery.recalled import Recalled
from broker.packets import BYTES, NO_LOCAL, RETAIN_AS_PUBLISHED, PacketType, ack_frame
from broker.sessions import (
    INBOX,
    LIVE_ONLY,
    NOT_YET,
    PUBLISHED_1,
    RELEASED,
    SETTLED,
    Cursor,
    Member,
    Session,
    Slot,
    Timeline,
    is_channel,
)
from storage.records import InboxEntry, Message, Subscription

if TYPE_CHECKING:
    from broker.access import AccessControl
    from broker.clock import ServerTime
    from broker.counters import Counters
    from broker.delivery.shared_group import SharedGroup
    from broker.routing import Trie
    from broker.sessions import Link

READY: Final = 0
SENDING_AGAIN: Final = 1
READING: Final = 2
ASKING: Final = 3
HOLDING: Final = 4
CLOSED: Final = 5

BATCH: Final = 65536
"""Bytes of frames joined into one write."""

_STRETCH: Final = 16
"""Entries of one timeline before it is another's turn."""

_MOST_EXTRAS: Final = 128
"""Messages that are in no timeline, and wait for room."""

_DUP: Final = 0x08

_BYTES: Final = BYTES  # a module's own is no look-up in the compiled core


class Extra(NamedTuple):
    """A message that is in no timeline. ``group``: due as to its member, and ``passed`` by others before."""

    message: Message
    retained: bool
    group: SharedGroup | None
    passed: tuple[Session, ...]


class Machine:
    """See the module. Of ``receiver`` it reads limits, aliases and whether it is writable, and never writes to it."""

    __slots__ = (
        "_again",
        "_allowed",
        "_durable_from",
        "_extras",
        "_extras_bytes",
        "_turn",
        "access",
        "clock",
        "counters",
        "cursor",
        "held",
        "members",
        "more",
        "openness",
        "passed_on",
        "progressed",
        "question",
        "reading",
        "recalled",
        "receiver",
        "run",
        "session",
        "state",
        "trie",
    )

    def __init__(
        self,
        session: Session,
        cursor: Cursor,
        receiver: Link,
        trie: Trie[Session | SharedGroup],
        access: AccessControl,
        counters: Counters,
        clock: ServerTime,
        recalled: Recalled | None = None,
    ) -> None:
        self.session = session
        self.cursor = cursor
        self.receiver = receiver
        self.trie = trie
        self.access = access
        self.openness = access.openness
        self.counters = counters
        self.clock = clock
        self.recalled = Recalled() if recalled is None else recalled
        self.state: int = READY
        self.members: list[Member] | None = None
        """What it reads beside the inbox; None for a device that is in no channel."""
        self.reading = cursor
        """READING: the cursor that wants a page."""
        self._turn = 0
        """Whose turn it was last: 0 for the inbox, then ``members``."""
        self.more = False
        """A batch is full: `step` has more at once."""
        self.progressed = False
        """The last `step` moved the cursor."""
        # What most connections have nothing in is None: an empty list takes 72 bytes of each.
        self.passed_on: list[Extra] | None = None
        """What the last steps found not to be due to this member of its group: the shell gives it to another."""
        self.run: list[Slot] | None = None
        """SENDING_AGAIN: neighbours in one timeline, whose messages one read fetches."""
        self.question = ""
        """ASKING: the topic."""
        self.held: list[bytes] | None = None
        """HOLDING: the frames."""
        self._again: list[Slot] | None = session.window.pending()[::-1] or None
        self._extras: deque[Extra] | None = None  # an empty deque takes 600 bytes
        self._extras_bytes = 0
        self._allowed: str | None = None
        """The topic that the device may receive, as access control has said in this step, where such answers are kept."""
        self._durable_from = -1
        """Where among the frames of a step the first is that waits for the session's progress."""

    # --- events --------------------------------------------------------------------------------------------------------

    def closed(self) -> None:
        """The connection ended."""
        self.state = CLOSED

    def page_came(self, entries: list[InboxEntry], after: int, head: int) -> None:
        """Entries of the timeline, as `Cursor.take_page` wants them."""
        if self.state == READING:
            self.state = READY
            self.reading.take_page(entries, after, head)

    def answered(self) -> None:
        """Access control knows now whether the device may receive the topic."""
        if self.state == ASKING:
            self.state = READY

    def durable(self) -> list[bytes]:
        """The session's progress is stored: the frames that waited for it."""
        if self.state != HOLDING:
            return []
        self.state = READY
        frames, self.held = self.held, None
        return frames or []

    def moved(self) -> None:
        """The cursor was set, and the window settled: what was awaited for the old place is of no use."""
        if self.state == SENDING_AGAIN:
            self._put_back((self.run or [])[::-1])
            self.run = None
        if self.state in (SENDING_AGAIN, READING, ASKING):
            self.state = READY

    def no_timeline(self, message: Message, *, retained: bool, group: SharedGroup | None, passed: tuple[Session, ...]) -> bool:
        """A message that no timeline holds. False where too many wait: a ``retained`` one is always taken, since its number
        is bounded by the SUBSCRIBE that asked for it."""
        if self._extras is None:
            self._extras = deque()
        if not retained:
            if len(self._extras) >= _MOST_EXTRAS or self._extras_bytes >= BATCH:
                return False
            self._extras_bytes += len(message.payload)
        self._extras.append(Extra(message, retained, group, passed))
        return True

    def joined(self, member: Member) -> None:
        """The device reads one more channel; the member is attached."""
        if self.members is None:
            self.members = []
        self.members.append(member)

    def left(self, member: Member) -> None:
        """It reads a channel no longer."""
        if self.members is not None and member in self.members:
            self.members.remove(member)
            if not self.members:
                self.members = None
                self._turn = 0

    @property
    def waiting(self) -> int:
        """How many messages wait that are in no timeline."""
        return 0 if self._extras is None else len(self._extras)

    @property
    def room(self) -> int:
        """How many messages of a group could be taken now."""
        if self.state != READY or self._again or not self.receiver.writable:
            return 0
        window = self.session.window
        return max(0, min(window.room, self.receiver.receive_maximum - window.on_wire))

    # --- the next frames -------------------------------------------------------------------------------------------------

    def step(self) -> list[bytes]:
        """The frames to write now. ``more`` or the state say how it goes on."""
        frames: list[bytes] = []
        self.more = self.progressed = False
        self._allowed = None
        if self.state != READY:
            return frames
        if self._again is not None and not self._send_again(self._again, frames):
            return frames
        size = 0
        if self._extras is not None and not self._take_extras(self._extras, frames):
            size = BATCH  # no room for them, and so for nothing behind them
        if self.members is not None:
            self._take_turns(self.members, frames, size)
        else:
            self._take_inbox(frames, size)
        if self._durable_from >= 0:
            self._hold(frames)
        return frames

    def _take_inbox(self, frames: list[bytes], size: int) -> None:
        """Add frames for what follows in the one timeline, up to a batch; ``size`` is how much of that there is."""
        cursor = self.cursor
        topic: str | None = None
        granted: tuple[Subscription, ...] = ()
        while size < BATCH:
            entry = cursor.peek()
            if entry is None:
                if cursor.needs_page and self._durable_from < 0:
                    self._read_on(cursor)
                break
            message = entry.message
            if message is not None:
                if message.topic is not topic:  # else what the message before it was due to
                    topic, granted = message.topic, self.granted(message)
                if not self._offer(entry, message, granted, frames):
                    break
                size += len(message.payload) + 64
            cursor.advance(entry)
            self.progressed = True
        else:
            self.more = self._extras is None

    def _take_turns(self, members: list[Member], frames: list[bytes], size: int) -> None:
        """The same for several timelines: round after round a stretch of each, and a page for one that is behind."""
        count = len(members) + 1
        took = True
        while took and size < BATCH:
            before = size
            took = False
            behind: Cursor | None = None
            for _ in range(count):
                turn = (self._turn + 1) % count
                cursor = self.cursor if not turn else members[turn - 1].reader
                assert cursor is not None
                taken = self._take_stretch(cursor, members[turn - 1] if turn else None, frames)
                size += taken
                if taken or not self._no_room:
                    self._turn = turn  # else it is its turn still
                if cursor.needs_page and (behind is None or behind is self.reading):
                    behind = cursor
                if self.state != READY:
                    return
                if size >= BATCH:
                    break
            took = size > before
            if behind is not None and self._durable_from < 0:
                self._read_on(behind)
                return
        self.more = took and self._extras is None

    def _take_stretch(self, cursor: Cursor, member: Member | None, frames: list[bytes]) -> int:
        """Add frames for some entries of one timeline; how much that was, 0 for none."""
        size = 0
        for _ in range(_STRETCH):
            entry = cursor.peek()
            if entry is None:
                break
            message = entry.message
            if message is not None:
                if member is None:
                    offered = self._offer(entry, message, self.granted(message), frames)
                else:
                    offered = self._offer_of_channel(member, entry, message, frames)
                if not offered:
                    break
                size += len(message.payload)
            cursor.advance(entry)
            self.progressed = True
            size += 64
        return size

    @property
    def _no_room(self) -> bool:
        window = self.session.window
        return window.full or window.on_wire >= self.receiver.receive_maximum or self._durable_from >= 0

    def _read_on(self, cursor: Cursor) -> None:
        """What follows is in storage. Nothing is due to a device without subscriptions."""
        self.reading = cursor
        if self.session.subscriptions or not self.session.inbox:
            self.state = READING
        elif not self.session.awaits_filter:
            self.cursor.move(self.cursor.head.seq)
            self.progressed = True

    def _hold(self, frames: list[bytes]) -> None:
        """Keep back what needs the session's progress to be durable; what is before it waits for nothing."""
        self.held = frames[self._durable_from :]
        del frames[self._durable_from :]
        self._durable_from = -1
        self.state = HOLDING

    def _take_extras(self, extras: deque[Extra], frames: list[bytes]) -> bool:
        """Add frames for what is in no timeline; True if none of it is left."""
        while extras:
            extra = extras[0]
            message, group = extra.message, extra.group
            before = len(frames)
            granted = self.granted(message) if group is None else group.granted(self.session)
            if not self.give(message, granted, frames, 0, retained=extra.retained, live=True, timeline=LIVE_ONLY):
                return False
            extras.popleft()
            if not extra.retained:
                self._extras_bytes -= len(message.payload)
            if group is not None and before == len(frames):
                if self.passed_on is None:
                    self.passed_on = []
                self.passed_on.append(extra)
        self._extras = None
        return True

    def _offer(self, entry: InboxEntry, message: Message, granted: tuple[Subscription, ...], frames: list[bytes]) -> bool:
        """Add the entry's frame, if it is due to this device. False if the loop must stop before it."""
        timeline = INBOX if self.session.inbox else LIVE_ONLY
        live = self.cursor.live
        if entry.target:
            if entry.target != self.session.key.client_id:
                return True
            return self.give(message, granted, frames, entry.seq, retained=True, live=live, timeline=timeline)
        if not granted:
            return True
        if len(granted) == 1:
            if granted[0].since >= entry.seq:
                return granted[0].since != NOT_YET  # else the commit that says whether it is due is still under way
        else:
            due = tuple(s for s in granted if s.since < entry.seq)
            if not due and any(s.since == NOT_YET for s in granted):
                return False
            granted = due
        return self.give(message, granted, frames, entry.seq, retained=False, live=live, timeline=timeline)

    def _offer_of_channel(self, member: Member, entry: InboxEntry, message: Message, frames: list[bytes]) -> bool:
        """The same for an entry of a channel."""
        reader, since, seq = member.reader, member.since, entry.seq
        assert reader is not None
        due: list[Subscription] = []
        waits = False
        for subscription in self.trie.match(message.topic).granted(self.session):
            place = since.get(subscription.filter, seq)
            if place < seq:
                due.append(subscription)
            elif place == NOT_YET:
                waits = True
        if not due:
            return not waits
        return self.give(message, tuple(due), frames, seq, retained=False, live=reader.live, timeline=member.channel)

    def granted(self, message: Message) -> tuple[Subscription, ...]:
        """The session's own subscriptions that match."""
        return self.trie.match(message.topic).granted(self.session)

    def give(
        self,
        message: Message,
        granted: tuple[Subscription, ...],
        frames: list[bytes],
        seq: int,
        *,
        retained: bool,
        live: bool,
        timeline: Timeline,
    ) -> bool:
        """Add a PUBLISH frame for the message, unless it is not due. False if the window is full or an answer is awaited.

        ``live``: it came right from its commit.
        """
        session = self.session
        if len(granted) == 1:
            options = granted[0].options
            if options & NO_LOCAL and not retained and self._own(message):
                return True
        else:
            if not retained and self._own(message):
                granted = tuple(s for s in granted if not s.options & NO_LOCAL)
            if not granted:
                return True
            options = max(s.options & 3 for s in granted)
            for subscription in granted:
                options |= subscription.options & RETAIN_AS_PUBLISHED
        qos = options & 3
        if message.qos < qos:
            qos = message.qos
        window = session.window
        receiver = self.receiver
        if qos:
            if window.full or window.on_wire >= receiver.receive_maximum:
                self.counters.limit_inflight += 1
                return False
        elif self._durable_from >= 0:
            return False  # held back it would count as written, and be lost with the connection
        if not self.openness.open and message.topic is not self._allowed:
            allowed = self.access.cached(receiver.info, RECEIVE, message.topic)
            if allowed is None:
                if self._durable_from < 0:  # else it is asked for once that is durable
                    self.question = message.topic
                    self.state = ASKING
                return False
            if not allowed:
                self.counters.acl_denied += 1
                return True
            hidden = self.access.hidden(receiver.info, message.topic) if self.access.hides else 0
            if 0 < message.seq <= hidden:  # its inbox has it by a wider filter, from before it joined the conversation
                self.counters.acl_denied += 1
                return True
            if self.access.keeps and not hidden:
                self._allowed = message.topic
        flags = qos << 1
        if retained or (message.retain and options & RETAIN_AS_PUBLISHED):
            flags |= 1
        if message.expires and message.expired(self.clock.now(), live):
            return True
        parts = self._parts(message, flags, granted, 0 if timeline and is_channel(timeline) else seq, True)
        if receiver.max_packet_size and len(parts[0]) + len(parts[1]) + (2 if qos else 0) > receiver.max_packet_size:
            self.counters.publish_dropped += 1
            receiver.forget_alias(message.topic)
            return True
        self.counters.sent(qos, len(message.payload))
        if not qos:
            frames.append(parts[0])
            frames.append(parts[1])
            return True
        if qos == 2 and session.inbox and self._durable_from < 0:
            self._durable_from = len(frames)
        packet_id = window.take(seq, qos, timeline)
        frames.append(parts[0])
        frames.append(_BYTES[packet_id >> 8])
        frames.append(_BYTES[packet_id & 0xFF])
        frames.append(parts[1])
        return True

    def _own(self, message: Message) -> bool:
        key = self.session.key
        return message.device == key.client_id and message.user == key.user

    def _parts(
        self, message: Message, flags: int, granted: tuple[Subscription, ...], seq: int, aliased: bool
    ) -> tuple[bytes, bytes]:
        receiver = self.receiver
        message = self.recalled.shown(message)
        if receiver.version < 5:
            return frame_parts(message, flags, False)
        options = receiver.connect_options
        asked = options is not None and options.message_properties
        personal = asked or message.expires or receiver.aliases_out is not None
        for subscription in granted:
            personal = personal or subscription.identifier
        if not personal:
            return frame_parts(message, flags, True)
        identifiers = [s.identifier for s in granted if s.identifier]
        extra = about(message, seq if self.session.durable else 0) if asked else ()
        alias, known = receiver.alias_for(message.topic) if aliased else (0, False)
        return personal_parts(message, flags, self.clock.now(), identifiers, extra, alias, known)

    # --- messages of a group ---------------------------------------------------------------------------------------------

    def give_of_group(
        self, message: Message, subscription: Subscription, seq: int, timeline: Timeline, live: bool
    ) -> list[bytes] | None:
        """The frames of a group's message; none where it is not for this member, None if it must wait.

        With the state HOLDING after it, they are held: the group's own state goes into the same commit, so that no other member
        is ever given this message.
        """
        frames: list[bytes] = []
        self._allowed = None
        if not self.give(message, (subscription,), frames, seq, retained=False, live=live, timeline=timeline):
            return None
        if self._durable_from >= 0:
            self._durable_from = -1
            self.state = HOLDING
            self.held = frames
        return frames

    def take_back(self, packet_id: int) -> bool:
        """Whether a group's message was held, and never sent: now it never will be."""
        if self.held is None or self.held[1:3] != [_BYTES[packet_id >> 8], _BYTES[packet_id & 0xFF]]:
            return False
        self.held = None
        return True

    # --- sending again ---------------------------------------------------------------------------------------------------

    def _send_again(self, again: list[Slot], frames: list[bytes]) -> bool:
        """Add the next stretch of what was in flight. True once all of it was.

        PUBRELs go at once; PUBLISHes need their messages from storage, a page at a time, and room in the client's
        Receive Maximum.
        """
        window = self.session.window
        run: list[Slot] = []
        while again:
            slot = again[-1]
            if slot.done:
                pass
            elif slot.state is RELEASED:
                slot.sent = True
                window.on_wire += 1
                self.counters.control_sent += 1
                frames.append(ack_frame(PacketType.PUBREL, slot.packet_id))
            elif slot.timeline in (LIVE_ONLY, SETTLED):
                window.drop(slot.packet_id)
            elif len(run) >= self.receiver.receive_maximum - window.on_wire or (run and not _neighbours(run[-1], slot)):
                break
            else:
                run.append(slot)
            again.pop()
        if not again:
            self._again = None
        if run:
            self.run = run
            self.state = SENDING_AGAIN
        return not again and not run

    def _put_back(self, slots: list[Slot]) -> None:
        """These are still to be sent again, before the others."""
        if slots:
            self._again = (self._again or []) + slots

    def in_flight_came(
        self, page: dict[int, InboxEntry], member: Subscription | None
    ) -> tuple[list[bytes], list[Slot], list[Slot]]:
        """The messages of ``run``, as far as one page of their timeline reaches; ``member``: of a group, as its member.

        The frames to write, the slots that are dropped (QoS 1 that retention removed), and those to release: the client may
        hold their identifiers, and would take the next message that has one for this one.
        """
        frames: list[bytes] = []
        dropped: list[Slot] = []
        released: list[Slot] = []
        if self.state != SENDING_AGAIN:
            return frames, dropped, released
        self.state = READY
        run, self.run = self.run or [], None
        reached = max(page, default=run[-1].seq)
        for slot in run:
            if slot.done or slot.seq > reached:
                continue
            entry = page.get(slot.seq)
            parts = self._parts_again(entry, slot, member) if entry is not None else None
            if parts is None and slot.state is PUBLISHED_1:
                self.session.window.drop(slot.packet_id)
                dropped.append(slot)
                continue
            slot.sent = True
            self.session.window.on_wire += 1
            if parts is None:
                slot.state = RELEASED
                released.append(slot)
                continue
            frames += (parts[0], slot.packet_id.to_bytes(2, "big"), parts[1])
            size = len(entry.message.payload) if entry and entry.message else 0
            self.counters.sent(1 if slot.state is PUBLISHED_1 else 2, size)
        self._put_back([slot for slot in reversed(run) if slot.seq > reached])
        return frames, dropped, released

    def _parts_again(self, entry: InboxEntry, slot: Slot, member: Subscription | None) -> tuple[bytes, bytes] | None:
        """The frame of a message that was in flight, with DUP; None where it can or may not be sent any more."""
        message = entry.message
        if message is None:
            return None
        granted = self.granted(message) if member is None else (member,)
        flags = 2 if slot.state is PUBLISHED_1 else 4
        if entry.target or (message.retain and any(s.options & RETAIN_AS_PUBLISHED for s in granted)):
            flags |= 1
        head, tail = self._parts(message, flags, granted, 0 if is_channel(slot.timeline) else slot.seq, False)
        limit = self.receiver.max_packet_size
        if limit and len(head) + len(tail) + 2 > limit:
            self.counters.publish_dropped += 1
            return None
        return bytes([head[0] | _DUP]) + head[1:], tail


def _neighbours(one: Slot, next_: Slot) -> bool:
    """Whether one read fetches both without much between them."""
    return one.timeline == next_.timeline and 0 < next_.seq - one.seq <= 8
