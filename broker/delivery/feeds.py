"""Feeds: what moves a device's cursor along its timeline and writes PUBLISH frames to its socket.

`Feed.pump` is the one loop. An `InboxFeed` goes along the user's inbox; a `TailFeed`, for a clean session, along the
messages that matched it, and along the tail of the whole store when it could not keep up.

Rules kept here:

- An entry is looked at once, in order, and the cursor moves past it when it was written or is not due to the device.
- QoS is the lower of published and subscribed [MQTT-3.8.4-6]; overlapping subscriptions give one copy [MQTT-3.3.5-1].
- QoS 2 to a durable session: packet id and state are durable before PUBLISH, and again before PUBREL is sent.
- What was in flight when the connection ended is sent again first, in order, with DUP and the same identifier [MQTT-4.4.0-1].
- A message larger than the client takes is passed over as if it had been delivered [MQTT-3.1.2-25].
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from amqtt.contexts import Action

from broker.delivery.frames import frame_parts, personal_parts
from broker.packets.codes import PacketType, ReasonCode
from broker.packets.encoder import ack_frame
from broker.sessions.session import TRANSIENT, Session
from broker.sessions.window import ASIDE, PUBLISHED_1, RELEASED, Slot
from storage.records import InboxEntry, Message, Subscription

if TYPE_CHECKING:
    from broker.connection.connection import Connection
    from broker.delivery.delivery import Delivery, Inbox
    from broker.delivery.shares import Share

BATCH = 65536
"""Bytes of frames joined into one write."""

TAIL_RECENT = 128
"""Messages that a clean session may be behind before it reads from the store."""

READ_PAGE = "read page"
"""The name of the task that reads one."""

_NO_LOCAL = 0x04
_RETAIN_AS_PUBLISHED = 0x08
_DUP = 0x08


log = logging.getLogger(__name__)


class Held:
    """Frames that may be sent once the session's progress is durable."""

    __slots__ = ("feed", "frames", "publishes")

    def __init__(self, feed: Feed, frames: list[bytes], publishes: bool) -> None:
        self.feed = feed
        self.frames = frames
        self.publishes = publishes

    def progress_saved(self) -> None:
        self.feed.release(self)


def _neighbours(one: Slot, next_: Slot) -> bool:
    """Whether one read fetches both without much between them."""
    return one.timeline == next_.timeline and 0 < next_.seq - one.seq <= 8


class Extra(NamedTuple):
    """A message that no timeline of the device holds. ``share``: as a member of that group, after others that ``passed`` it."""

    message: Message
    retained: bool
    share: Share | None
    passed: tuple[Session, ...]


class Taken(Enum):
    """What became of a message that a member of a group was given: QoS 0 is written, and done with that."""

    NOT = 0
    WRITTEN = 1
    IN_FLIGHT = 2


class Feed:
    """What serves one connection of a session."""

    __slots__ = (
        "_durable_first",
        "_extras",
        "_extras_bytes",
        "_holding",
        "_outbox",
        "_page",
        "_resend",
        "_task",
        "client_id",
        "closed",
        "connection",
        "delivery",
        "session",
    )

    def __init__(self, delivery: Delivery, session: Session) -> None:
        assert session.connection is not None
        self.delivery = delivery
        self.session = session
        self.connection: Connection = session.connection
        self.client_id = session.key.client_id
        self.closed = False
        # Queues as lists in reverse, or None while empty: an empty deque takes 600 bytes of every idle connection.
        self._page: list[InboxEntry] = []
        self._resend: list[Slot] = []
        self._extras: deque[Extra] | None = None
        self._extras_bytes = 0
        self._durable_first = False
        self._holding = False
        self._outbox: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send again what was in flight, then go on from the cursor."""
        self._resend = self.session.window.pending()[::-1]
        for filter_ in self.session.shares:
            share = self.delivery.shares.find(filter_)
            if share is not None:
                share.came()
        self.pump()

    def close(self) -> None:
        """The connection ended; nothing more is written."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()

    def moved(self, *, back: bool) -> None:
        """The session's cursor was set: forget what was read ahead of it, and set ``back`` also what was to be sent again;
        `pump` follows."""
        if back:
            self._resend.clear()
        if self._task is not None and (back or self._task.get_name() == READ_PAGE):
            self._task.cancel()
            self._task = None
        self._page.clear()

    # --- where entries come from; the two kinds of feed differ only here -----------------------------------------------

    def _peek(self) -> InboxEntry | None:
        """The next entry after the cursor. None at the head, or while a page is being read."""
        raise NotImplementedError

    def _passed(self, entry: InboxEntry) -> None:
        """The entry was looked at: move the cursor past it."""
        raise NotImplementedError

    async def read_page(self) -> list[InboxEntry]:
        """Entries after the cursor, from storage."""
        raise NotImplementedError

    # --- the loop --------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Write what the socket and the window have room for."""
        if self.closed:
            return
        try:
            self._pump()
        except Exception as error:  # noqa: BLE001 - logged there; one device's fault must not stop the others
            self._failed(error)

    def _pump(self) -> None:
        connection = self.connection
        while self._task is None and not self._holding and connection.writable:
            if self._resend and not self._send_again():
                return
            frames: list[bytes] = []
            more = self._extras is not None and not self._take_extras(self._extras, frames)
            size = BATCH if more else 0
            while size < BATCH:
                entry = self._peek()
                if entry is None:
                    break
                message = entry.message
                if message is not None:
                    if not self._offer(entry, message, frames):
                        break
                    size += len(message.payload) + 64
                self._passed(entry)
            if self._durable_first:
                self._durable_first = False
                self._holding = True
                self._hold(frames, publishes=True)
            elif frames:
                connection.write_frames(frames)
            if size < BATCH or more:
                break
        if self.session.shares:
            self.delivery.pump_shares(self.session)

    def _take_extras(self, extras: deque[Extra], frames: list[bytes]) -> bool:
        """Add frames for what waits outside the timeline; True if none of it is left."""
        while extras:
            extra = extras[0]
            message, share = extra.message, extra.share
            before = len(frames), len(self.session.window)
            granted = self._subscriptions(message) if share is None else share.granted(self.session)
            if not self._give(message, granted, frames, 0, retained=extra.retained):
                return False
            extras.popleft()
            if not extra.retained:
                self._extras_bytes -= len(message.payload)
            if share is not None and before == (len(frames), len(self.session.window)):
                share.live(message, (*extra.passed, self.session))
        self._extras = None
        return True

    def _offer(self, entry: InboxEntry, message: Message, frames: list[bytes]) -> bool:
        """Add the entry's frame, if it is due to this device. False if the loop must stop before it."""
        if entry.target:
            if entry.target != self.client_id:
                return True
            return self._give(message, self._subscriptions(message), frames, entry.seq, retained=True)
        granted = self.delivery.trie.match(message.topic).grants.get(self.session)
        if granted is None:
            return True
        if len(granted) == 1:
            if granted[0].since >= entry.seq:
                return True
        else:
            granted = tuple(s for s in granted if s.since < entry.seq)
        return self._give(message, granted, frames, entry.seq, retained=False)

    def _subscriptions(self, message: Message) -> tuple[Subscription, ...]:
        return self.delivery.trie.match(message.topic).grants.get(self.session, ())

    def _give(
        self,
        message: Message,
        granted: tuple[Subscription, ...],
        frames: list[bytes],
        seq: int,
        *,
        retained: bool,
        timeline: str = "",
    ) -> bool:
        """Add a PUBLISH frame for the message, unless it is not due. False if the window is full or an answer is awaited."""
        session = self.session
        if len(granted) == 1:
            options = granted[0].options
            if options & _NO_LOCAL and message.device == self.client_id and message.user == session.key.user and not retained:
                return True
        else:
            if message.device == self.client_id and message.user == session.key.user and not retained:
                granted = tuple(s for s in granted if not s.options & _NO_LOCAL)
            if not granted:
                return True
            options = max(s.options & 3 for s in granted)
            for subscription in granted:
                options |= subscription.options & _RETAIN_AS_PUBLISHED
        qos = options & 3
        if message.qos < qos:
            qos = message.qos
        window = session.window
        connection = self.connection
        if qos and (window.full or window.on_wire >= connection.send_quota):
            return False
        if not qos and self._durable_first:
            return False  # held back it would count as written, and be lost with the connection
        if not self.delivery.authority.open:
            allowed = self.delivery.authority.cached(connection.info, Action.RECEIVE, message.topic)
            if allowed is None:
                self._ask(message.topic)
                return False
            if not allowed:
                self.delivery.counters.acl_denied += 1
                return True
        flags = qos << 1
        if retained or (message.retain and options & _RETAIN_AS_PUBLISHED):
            flags |= 1
        if message.expires and message.expires <= self.delivery.time.now():
            return True
        parts = self._parts(message, flags, granted, seq)
        if connection.max_packet_size and len(parts[0]) + len(parts[1]) + (2 if qos else 0) > connection.max_packet_size:
            self.delivery.counters.publish_dropped += 1
            connection.forget_alias(message.topic)
            return True
        counters = self.delivery.counters
        counters.publish_sent += 1
        counters.publish_bytes_sent += len(message.payload)
        if not qos:
            frames.append(parts[0])
            frames.append(parts[1])
            return True
        packet_id = window.take(seq, qos, timeline or ("" if seq and session.inbox else TRANSIENT))
        frames.append(parts[0])
        frames.append(packet_id.to_bytes(2, "big"))
        frames.append(parts[1])
        if qos == 2 and session.inbox and not self._durable_first:
            self._durable_first = True
            if len(frames) > 3:  # what is before it waits for nothing
                connection.write_frames(frames[:-3])
                del frames[:-3]
        return True

    def _parts(
        self, message: Message, flags: int, granted: tuple[Subscription, ...], seq: int, aliased: bool = True
    ) -> tuple[bytes, bytes]:
        connection = self.connection
        if connection.version < 5:
            return frame_parts(message, flags, False)
        wishes = connection.extras
        told = wishes is not None and wishes.message_properties
        personal = told or message.expires or connection.aliases_out is not None
        for subscription in granted:
            personal = personal or subscription.identifier
        if not personal:
            return frame_parts(message, flags, True)
        identifiers = [s.identifier for s in granted if s.identifier]
        extra = connection.server.message_properties(message, self.session, seq) if told else ()
        alias, known = connection.alias_for(message.topic) if aliased else (0, False)
        return personal_parts(message, flags, self.delivery.time.now(), identifiers, extra, alias, known)

    # --- messages of shared subscriptions --------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a message of a shared subscription could be written now."""
        return not (self.closed or self._holding or self._resend or self._task is not None) and self.connection.writable

    def shared(self, message: Message, subscription: Subscription, seq: int, share: Share) -> Taken | None:
        """Take a message of a group; `flush` follows. None if it must wait."""
        waiting, written = len(self.session.window), len(self._outbox)
        if not self._give(message, (subscription,), self._outbox, seq, retained=False, timeline=share.inbox):
            return None
        if self._durable_first:
            # The group's own state goes into the same commit, so that no other member is ever given this message.
            self._durable_first = False
            self._holding = True
            frames, self._outbox = self._outbox, []
            self._hold(frames, publishes=True)
            share.save()
        if len(self.session.window) > waiting:
            return Taken.IN_FLIGHT
        return Taken.WRITTEN if len(self._outbox) > written else Taken.NOT

    def flush(self) -> None:
        """Write what was taken."""
        frames, self._outbox = self._outbox, []
        if frames and not self.closed:
            self.connection.write_frames(frames)

    # --- messages that are in no timeline ------------------------------------------------------------------------------

    def retained(self, messages: list[Message]) -> None:
        """Retained messages for a new subscription that has no inbox to put them in; `pump` follows."""
        if self._extras is None:
            self._extras = deque()
        self._extras.extend(Extra(message, True, None, ()) for message in messages)

    @property
    def waiting(self) -> int:
        """How many messages wait that no timeline holds."""
        return 0 if self._extras is None else len(self._extras)

    def transient(self, message: Message, share: Share | None = None, passed: tuple[Session, ...] = ()) -> None:
        """A message that no inbox holds, of a subscription of its own or of a group's: written soon, or never; `pump` follows.

        Where there is no room, QoS 0 is dropped and counted; QoS 1 and 2, which cannot be kept, disconnect the device.
        """
        if self._extras is None:
            self._extras = deque()
        if len(self._extras) < TAIL_RECENT and self._extras_bytes < BATCH:
            self._extras.append(Extra(message, False, share, passed))
            self._extras_bytes += len(message.payload)
            return
        granted = self._subscriptions(message) if share is None else share.granted(self.session)
        if min(message.qos, max((s.options & 3 for s in granted), default=0)):
            self.delivery.counters.slow_disconnects += 1
            self.connection.disconnect(ReasonCode.QUOTA_EXCEEDED, "too slow for messages that are not stored")
        else:
            self.delivery.counters.publish_dropped += 1

    # --- what has to be durable first ----------------------------------------------------------------------------------

    def _hold(self, frames: list[bytes], *, publishes: bool) -> None:
        self.delivery.save(self.session).then.append(Held(self, frames, publishes))

    def release(self, held: Held) -> None:
        """What the frames wait for is durable."""
        if self.closed:
            return
        self.connection.write_frames(held.frames)
        if held.publishes:
            self._holding = False
            self.pump()

    def pubrel(self, slot: Slot) -> None:
        """Send PUBREL, once the state that it stands for is durable."""
        self.delivery.counters.control_sent += 1
        frames = [ack_frame(PacketType.PUBREL, slot.packet_id)]
        share = self.delivery.shares.by_inbox(slot.timeline) if slot.timeline else None
        if share is not None:
            share.received_at(slot.seq)
        if self.session.durable:
            self._hold(frames, publishes=False)
        else:
            self.connection.write_frames(frames)

    # --- acknowledgements ------------------------------------------------------------------------------------------

    def finished(self, slot: Slot) -> None:
        """A message left the window: its timeline's offset may have moved."""
        if slot.timeline:
            self.delivery.finished_share(slot)
        else:
            self.delivery.touch(self.session)

    # --- sending again ---------------------------------------------------------------------------------------------

    def _send_again(self) -> bool:
        """Send the next stretch of what was in flight. True once all of it was.

        PUBRELs go at once; PUBLISHes need their messages from storage, a page at a time, and room in the client's
        Receive Maximum.
        """
        frames: list[bytes] = []
        window = self.session.window
        run: list[Slot] = []
        while self._resend:
            slot = self._resend[-1]
            if slot.done:
                pass
            elif slot.state is RELEASED:
                slot.sent = True
                window.on_wire += 1
                frames.append(ack_frame(PacketType.PUBREL, slot.packet_id))
            elif slot.timeline in (TRANSIENT, ASIDE):
                window.drop(slot.packet_id)
            elif len(run) >= self.connection.send_quota - window.on_wire or (run and not _neighbours(run[-1], slot)):
                break
            else:
                run.append(slot)
            self._resend.pop()
        if frames:
            self.delivery.counters.control_sent += len(frames)
            self.connection.write_frames(frames)
        if run:
            self._wait_for(self._resend_run(run), "resend")
            return False
        return not self._resend

    async def _resend_run(self, run: list[Slot]) -> None:
        """Send neighbours again, as far as one page of their timeline reaches."""
        timeline = run[0].timeline
        after, until = run[0].seq - 1, run[-1].seq
        read = partial(
            self.delivery.reader.read_inbox,
            timeline or self.session.inbox,
            after,
            until - after,
            self.delivery.limits.page_bytes,
        )
        page = {entry.seq: entry for entry in await self.delivery.persist(self.client_id, read)}
        reached = max(page, default=until)
        share = self.delivery.shares.by_inbox(timeline) if timeline else None
        member = share.members.get(self.session) if share is not None else None
        frames: list[bytes] = []
        for slot in run:
            if slot.done or slot.seq > reached:
                continue
            entry = page.get(slot.seq)
            parts = self._parts_again(entry, slot, member) if entry is not None else None
            if parts is None and slot.state is PUBLISHED_1:
                self.session.window.drop(slot.packet_id)
                self.finished(slot)
                continue
            slot.sent = True
            self.session.window.on_wire += 1
            if parts is None:
                # The client may hold the identifier, and would take the next message that has it for this one.
                slot.state = RELEASED
                self.pubrel(slot)
                continue
            frames += (parts[0], slot.packet_id.to_bytes(2, "big"), parts[1])
            self.delivery.counters.publish_sent += 1
            self.delivery.counters.publish_bytes_sent += len(entry.message.payload) if entry and entry.message else 0
        self._resend += [slot for slot in reversed(run) if slot.seq > reached]
        self._task = None
        if frames:
            self.connection.write_frames(frames)
        self.pump()

    def _parts_again(self, entry: InboxEntry, slot: Slot, member: Subscription | None) -> tuple[bytes, bytes] | None:
        """The frame of a message that was in flight, with DUP; None where it can or may not be sent any more."""
        message = entry.message
        if message is None:  # but never for its expiry, since its delivery began before [MQTT-4.3.3-7, MQTT-4.4.0-1]
            return None
        granted = self._subscriptions(message) if member is None else (member,)
        flags = 2 if slot.state is PUBLISHED_1 else 4
        if entry.target or (message.retain and any(s.options & _RETAIN_AS_PUBLISHED for s in granted)):
            flags |= 1
        head, tail = self._parts(message, flags, granted, slot.seq, aliased=False)
        limit = self.connection.max_packet_size
        if limit and len(head) + len(tail) + 2 > limit:
            self.delivery.counters.publish_dropped += 1
            return None
        return bytes([head[0] | _DUP]) + head[1:], tail

    # --- waiting for answers -------------------------------------------------------------------------------------------

    def _wait_for(self, work: Coroutine[object, object, None], name: str) -> None:
        """Write nothing until the work is done; it clears ``_task`` and pumps."""
        self._task = asyncio.create_task(work, name=name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """Our bug: it costs this client its connection, and must not leave it waiting for ever."""
        log.error("internal error in delivery to %s", self.connection.name, exc_info=error)
        self.connection.disconnect(ReasonCode.UNSPECIFIED_ERROR, "internal error")

    def _ask(self, topic: str) -> None:
        self._wait_for(self._answer(topic), "receive acl")

    async def _answer(self, topic: str) -> None:
        await self.delivery.authority.settle(self.connection.info, Action.RECEIVE, topic)
        self._task = None
        self.pump()

    def _fetch(self) -> None:
        self._wait_for(self._fetch_page(), READ_PAGE)

    async def _fetch_page(self) -> None:
        page = await self.delivery.persist(self.client_id, self.read_page)
        self._page = page[::-1]
        self._task = None
        self.pump()


class InboxFeed(Feed):
    """Feeds a durable session from its user's inbox."""

    __slots__ = ("inbox",)

    def __init__(self, delivery: Delivery, session: Session, inbox: Inbox) -> None:
        super().__init__(delivery, session)
        self.inbox = inbox

    @property
    def looked_at(self) -> int:
        """The highest entry that this device needs no more from memory."""
        return self.session.cursor

    def _peek(self) -> InboxEntry | None:
        cursor = self.session.cursor
        page = self._page
        if page:
            return page[-1]
        inbox = self.inbox
        if cursor >= inbox.head:
            return None
        entry = inbox.find(cursor + 1)
        if entry is None:
            if not self.session.subscriptions:
                if not self.session.awaits_filter:
                    self.session.cursor = inbox.head  # nothing is due to a device without subscriptions
                    self.delivery.touch(self.session)
                return None
            self._fetch()
        return entry

    def _passed(self, entry: InboxEntry) -> None:
        if self._page:
            self._page.pop()
        self.session.cursor = entry.seq
        if not self.session.window.slots:
            self.delivery.touch(self.session)

    async def read_page(self) -> list[InboxEntry]:
        limits = self.delivery.limits
        session = self.session
        head = self.inbox.head
        limit = min(limits.page_entries, max(64, session.window.room))
        page = await self.delivery.reader.read_inbox(session.inbox, session.cursor, limit, limits.page_bytes)
        # An entry above the head is durable, but its group is not done: a subscription in it has no place yet.
        page = [entry for entry in page if entry.seq <= self.inbox.head]
        if not page:
            session.cursor = max(session.cursor, head)  # retention removed all that was left
        return page


class TailFeed(Feed):
    """Feeds a clean session from what it was pushed, or from the store's tail when it is behind."""

    __slots__ = ("_behind", "_recent")

    def __init__(self, delivery: Delivery, session: Session) -> None:
        super().__init__(delivery, session)
        self._recent: deque[InboxEntry] | None = None
        self._behind = False

    def push(self, message: Message, *, stored: bool) -> None:
        """A committed message that matched; `pump` follows."""
        if not stored:
            self.transient(message)
        elif not self._behind and message.id > self.session.cursor:
            if self._recent is None:
                self._recent = deque()
            self._recent.append(InboxEntry(message.id, message))
            if len(self._recent) > TAIL_RECENT and (
                not self.connection.writable or self._task is not None or self.session.window.full
            ):
                self._recent = None
                self._behind = True

    def _peek(self) -> InboxEntry | None:
        if self._page:
            return self._page[-1]
        if self._recent is not None:
            return self._recent[0]
        if self._behind:
            self._fetch()
        return None

    def _passed(self, entry: InboxEntry) -> None:
        if self._page:
            self._page.pop()
        elif self._recent is not None:
            self._recent.popleft()
            if not self._recent:
                self._recent = None
        self.session.cursor = entry.seq

    async def read_page(self) -> list[InboxEntry]:
        limits = self.delivery.limits
        while True:
            last = self.delivery.last_id
            page = await self.delivery.reader.read_tail(self.session.cursor, limits.page_entries, limits.page_bytes)
            if page:
                return [InboxEntry(message.id, message) for message in page]
            if last == self.delivery.last_id:
                # Nothing was committed while the store was read, so from here on pushes are complete again.
                self._behind = False
                return []
