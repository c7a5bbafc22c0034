"""A shared subscription's machine, with its members' machines, under any order of commits, pages, acknowledgements, refusals,
losses, takeovers, set-backs and crashes; alone on the inbox, or with ranges of it that others have.

Nothing here is a socket or a storage: the rules below are both, and the devices at the other end. What a client can see of
laws 1 and 3 to 5 is held, and what 4.8.2 says of QoS 2.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest
from amqtt.contexts import Action
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.access.access_control import AccessControl
from broker.access.identity import AuthRequest, Identity
from broker.access.session_info import SessionInfo
from broker.clock import ServerTime
from broker.connection.connection import Connection
from broker.counters import Counters
from broker.delivery.machine import ASKING, HOLDING, READING, READY, SENDING_AGAIN, Machine
from broker.delivery.shared_machine import ENDLESS, READING_AGAIN, SharedMachine
from broker.packets.decoder import Decoder
from broker.packets.model import Publish, PubRel
from broker.routing.trie import Trie
from broker.server import Server
from broker.sessions.cursor import Cursor, Head
from broker.sessions.session import Session
from broker.sessions.timeline import group_inbox
from broker.sessions.window import RELEASED, Window
from storage.records import EXPIRES_AT_ONCE, Device, DeviceKey, InboxEntry, Message, Progress, Subscription
from storage.shared_inboxes import SeqRange
from tests.support.broker import settings as broker_settings
from tests.support.seeds import examples

pytestmark = pytest.mark.inside

GROUP = group_inbox("crew", "#")
LARGE = 300
"""A payload that member 0 has no room for, in bytes, and its maximum packet size."""


class Denying:
    """A topic plugin that denies one topic to member 1, and takes its time."""

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        await asyncio.sleep(0)
        return topic != "denied" or session.client_id != "1"


class Plugins(NamedTuple):
    """What an `AccessControl` takes."""

    auth_plugins: list[Any]
    topic_plugins: list[Any]


class Member:
    """A device at the other end, and the machine that delivers to it. The last one has no durable session."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = DeviceKey(f"c/{number}", str(number))
        self.durable = number < 2
        self.session: Session
        self.machine: Machine | None = None
        self.kept = Progress(self.key, 0, 0, 0, [])
        """Its progress in storage."""
        self.saving: list[int] = []
        """What waits for the progress: 0 for the held frames, or the packet identifier to release."""
        self.unanswered: list[Publish | PubRel] = []
        self.ids: dict[int, int] = {}
        self.decoder = Decoder("client", version=4)

    def refuses(self, message: Message, asks: bool) -> bool:
        """It may not have the message, or takes nothing so large."""
        return (self.number == 0 and len(message.payload) > LARGE) or (asks and self.number == 1 and message.topic == "denied")


class SharedDelivery(RuleBasedStateMachine):
    """``entries`` is the group's inbox, with None for what retention removed.

    ``mine``: what was claimed and not given back. ``has``: who has a message in progress; ``stays``: who alone may have it,
    as it was sent at QoS 2. ``done``: acknowledged to the end, or written at QoS 0. ``released``: at QoS 2 to a durable
    session, that far that it may never come again, also not after a crash. ``given_up``: what nobody was left to take.
    """

    @initialize(
        window=st.sampled_from([1, 2, 100]),
        quota=st.sampled_from([1, 3, 65535]),
        asks=st.sampled_from([False, False, True]),
        alone=st.booleans(),
        options=st.lists(st.sampled_from([2, 2, 1, 0]), min_size=3, max_size=3),
    )
    def start(self, window: int, quota: int, asks: bool, alone: bool, options: list[int]) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = Server(broker_settings())
        self.access = AccessControl(Plugins([], [Denying()] if asks else []))
        self.asks, self.alone, self.window, self.quota = asks, alone, window, quota
        self.entries: list[InboxEntry | None] = []
        self.group = SharedMachine(GROUP, ServerTime())
        self.kept = Progress(DeviceKey(GROUP, ""), 0, 0, 0, [])
        self.mine: set[int] = set()
        self.free: list[int] = []
        self.claims: list[SeqRange] = []
        self.told: list[SeqRange] = []
        self.given_back: set[int] = set()
        self.has: dict[int, Member] = {}
        self.stays: dict[int, Member] = {}
        self.done: set[int] = set()
        self.released: set[int] = set()
        self.given_up: set[int] = set()
        self.rank: dict[int, int] = {}
        self.newest = -1
        self.crashed = False
        self.members = [Member(number) for number in range(3)]
        for member, qos in zip(self.members, options, strict=True):
            self.new_session(member)
            self.join_with(member, qos)
            self.connect(member)
        if alone:
            self.claim(1, ENDLESS)

    def claim(self, first: int, last: int) -> None:
        self.claims.append(SeqRange(first, last))
        self.group.claimed(first, last, len(self.entries))

    def new_session(self, member: Member) -> None:
        member.session = Session(member.key, durable=member.durable, window=self.window)
        member.machine = None
        if not member.durable:
            member.ids = {}

    def join_with(self, member: Member, qos: int) -> None:
        self.group.joined(member.session, Subscription("$share/crew/#", qos), member.machine)

    def connect(self, member: Member) -> None:
        connection = Connection(self.server, "test")
        connection.receive_maximum, connection.max_packet_size = self.quota, 0 if member.number else LARGE
        connection.info = SessionInfo(Identity(member.key.user, None, True), AuthRequest(member.key.client_id, None, None))
        connection.writable = True
        cursor = Cursor(Head(0), 0)
        member.session.attach(cursor)
        member.decoder = Decoder("client", version=4)
        member.unanswered = []
        member.machine = Machine(member.session, cursor, connection, Trie(), self.access, Counters(), ServerTime())
        self.group.came(member.session, member.machine)
        self.pump(member)

    # --- commits, and storage --------------------------------------------------------------------------------------------

    @rule(
        group=st.lists(
            st.tuples(
                st.sampled_from(["a", "a", "denied"]),
                st.sampled_from([2, 2, 1, 0]),
                st.sampled_from([False] * 5 + [True]),
                st.sampled_from([False] * 5 + [True]),
            ),
            min_size=1,
            max_size=4,
        ),
        told=st.sampled_from([True] * 4 + [False]),
        step=st.booleans(),
    )
    def commit(self, group: list[tuple[str, int, bool, bool]], told: bool, step: bool) -> None:
        """``brief``: with an expiry interval of 0. ``told``: False where another node brought them."""
        for topic, qos, large, brief in group:
            seq = len(self.entries) + 1
            message = Message(seq, topic, "c/other", "other", 0, qos, seq.to_bytes(4, "big") + bytes(LARGE if large else 0))
            message.expires = EXPIRES_AT_ONCE if brief else 0
            self.entries.append(InboxEntry(seq, message))
            if self.alone:
                self.mine.add(seq)
                self.rank[seq] = seq
            else:
                self.free.append(seq)
            if told or self.alone:
                self.group.push(InboxEntry(seq, message))
        if step:
            self.give()

    @precondition(lambda self: not self.alone and self.free)
    @rule(data=st.data(), others=st.sampled_from([False, False, False, True]))
    def claim_some(self, data: st.DataObject, others: bool) -> None:
        """The next of what nobody has, or somewhere else; ``others``: another node has it, and does it."""
        start = data.draw(st.integers(0, len(self.free) - 1))
        first = self.free[start]
        most = data.draw(st.integers(1, 4))
        seqs = [seq for at, seq in enumerate(self.free[start : start + most]) if seq == first + at]
        self.free = [seq for seq in self.free if seq not in seqs]
        if not others:
            self.given_back -= set(seqs)
            self.mine |= set(seqs)
            self.rank.update((seq, len(self.claims) * 1_000_000 + seq) for seq in seqs)
            self.claim(seqs[0], seqs[-1])

    @precondition(lambda self: not self.alone and self.mine)
    @rule()
    def give_back(self) -> None:
        """Nobody has any of it, and all that nobody has is in it."""
        back = [seq for first, last in self.group.give_back() for seq in range(first, last + 1)]
        assert back == sorted(set(back))
        assert set(back) <= self.mine
        assert not set(back) & (self.has.keys() | self.done)
        self.mine -= set(back)
        self.given_back |= set(back)
        self.free = sorted({*self.free, *back})
        assert None not in self.group.pending.values()
        self.what_has_ended_was_done_or_may_not_be()

    @precondition(lambda self: self.group.state in (READING, READING_AGAIN))
    @rule(limit=st.integers(1, 4), step=st.booleans())
    def page(self, limit: int, step: bool) -> None:
        after, head = self.group.after, self.group.reader.head.seq
        limit = 1 if self.group.state == READING_AGAIN else limit
        self.group.page_came([entry for entry in self.entries[after:] if entry is not None][:limit], after, head)
        if step:
            self.give()

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), kind=st.sampled_from(["message", "entry", "memory", "set back"]), number=st.integers(0, 1))
    def disturb(self, data: st.DataObject, kind: str, number: int) -> None:
        """Retention removes a message, or its entry too; memory is short; the offset of a member's own inbox is set by hand, by
        which nothing of the group is touched."""
        member = self.members[number]
        if kind == "memory":
            self.group.reader.fall_behind()
        elif kind != "set back":
            seq = data.draw(st.integers(1, len(self.entries)))
            self.entries[seq - 1] = None if kind == "entry" else InboxEntry(seq, None)
        elif member.machine is not None:
            member.session.window.settle(None)
            member.session.cursor = 0
            member.machine.moved()
            self.pump(member)

    @rule()
    def give(self) -> None:
        """The group's machine takes a step, and the shells do what follows."""
        known = set(self.group.pending)
        before = newest = self.newest
        for session, frames in self.group.step().items():
            newest, self.newest = max(newest, self.newest), before
            (member,) = (member for member in self.members if member.session is session)
            assert member.machine is not None
            self.received(member, b"".join(frames), known)
            if member.machine.state == HOLDING:
                member.saving.append(0)
            assert member.machine.state in (READY, ASKING, HOLDING)
        self.newest = max(newest, self.newest)
        assert self.group._here or not self.group.reader.waiting
        self.what_has_ended_was_done_or_may_not_be()

    def what_has_ended_was_done_or_may_not_be(self) -> None:
        """Law 3: what is looked at and not pending is done, is not there any more, or there is nobody to take it."""
        unread = {seq for seq in self.mine if self.unread(seq)}
        for seq in self.mine - unread - self.group.pending.keys() - self.done - self.given_up:
            entry = self.entries[seq - 1]
            message = entry.message if entry is not None else None
            takers = [m for m in self.members if m.session in self.group.members]
            gone = message is None or message.expires or seq in self.stays or all(m.refuses(message, self.asks) for m in takers)
            assert gone, f"{seq} is lost"
            self.given_up.add(seq)

    def unread(self, seq: int) -> bool:
        ranges = self.group._ranges
        return any(s.first <= seq <= s.last and (s is not ranges[0] or seq > self.group.cursor) for s in ranges)

    @precondition(lambda self: self.group.pending or any(member.saving for member in self.members))
    @rule(late=st.booleans())
    def saved(self, late: bool) -> None:
        """All that waits becomes durable in one commit; ``late``: the group's offset too, which is stored within a second."""
        waiting = [member for member in self.members if member.saving]
        if waiting or late:
            self.kept = self.progress()
        for member in waiting:
            self.save(member)
        for member in waiting:
            saving, member.saving = member.saving, []
            for packet_id in saving:
                assert member.machine is not None
                frames = [b"\x62\x02" + packet_id.to_bytes(2, "big")] if packet_id else member.machine.durable()
                self.received(member, b"".join(frames))
            self.pump(member)

    def progress(self) -> Progress:
        group = self.group
        return Progress(self.kept.device, 0, group.offset, group.cursor, group.inflight)

    def save(self, member: Member) -> None:
        if member.durable:
            member.kept = member.session.progress()

    @precondition(lambda self: self.alone and self.group.pending)
    @rule(step=st.booleans())
    def crash(self, step: bool) -> None:
        """The broker was killed, and has what was durable. Who has no durable session begins anew."""
        self.group.closed()
        assert self.group.step() == {}
        self.crashed = True
        old, subscriptions = self.group, {}
        for member in self.members:
            if member.session in old.members and member.durable:
                subscriptions[member.number] = old.members[member.session]
            self.new_session(member)
            member.saving, member.unanswered = [], []
            if member.durable:
                member.session.window = Window.restore(self.window, member.kept.inflight)
        group = self.group = SharedMachine(GROUP, ServerTime())
        group.restore(Device(self.kept.device, cursor=self.kept.cursor, inflight=list(self.kept.inflight)))
        for number, subscription in subscriptions.items():
            group.joined(self.members[number].session, subscription, None)
        group.reconcile()
        group.claimed(group.cursor + 1, ENDLESS, len(self.entries))
        self.has = {seq: member for seq, member in self.stays.items() if group.pending.get(seq) is member.session}
        self.stays = {seq: member for seq, member in self.stays.items() if member.durable}
        again = {*group.pending, *range(group.cursor + 1, len(self.entries) + 1)}
        assert not again & self.released - self.has.keys(), "at QoS 2 again"
        self.done |= {entry.seq for entry in self.kept.inflight if entry.state is RELEASED}  # also by who is forgotten
        self.done -= again
        self.given_up -= again
        self.newest = min(self.newest, group.cursor)
        if step:
            self.give()

    # --- the members -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.group.pending)
    @rule(number=st.integers(0, 2), back=st.sampled_from([True, True, False]), step=st.booleans())
    def lose(self, number: int, back: bool, step: bool) -> None:
        """The connection ends; ``back``: or is taken over."""
        self.disconnect(self.members[number])
        if back:
            self.connect(self.members[number])
        if step:
            self.give()

    def disconnect(self, member: Member) -> None:
        """A session that is not durable ends with its connection."""
        if member.machine is None:
            return
        member.machine.closed()
        member.session.detach()
        member.session.window.disconnected()
        member.machine, member.saving, member.unanswered = None, [], []
        self.group.gone(member.session)
        self.save(member)
        for seq in [seq for seq, who in self.has.items() if who is member and not (member.durable and seq in self.stays)]:
            del self.has[seq]
        if not member.durable:
            self.leave(member)
            self.new_session(member)

    def leave(self, member: Member) -> None:
        """It unsubscribed, or its session ended."""
        if self.group.left(member.session):
            self.kept = self.progress()
            self.save(member)
            self.given_up |= {seq for seq, who in self.stays.items() if who is member and seq in self.has}
        self.has = {seq: who for seq, who in self.has.items() if who is not member}

    @rule(number=st.integers(0, 2), qos=st.sampled_from([2, 2, 1, 0, None]), step=st.booleans())
    def subscribe(self, number: int, qos: int | None, step: bool) -> None:
        """Or unsubscribe, where the QoS is None."""
        member = self.members[number]
        if qos is not None:
            self.join_with(member, qos)
            self.pump(member)
        elif member.session in self.group.members:
            self.leave(member)
        if step:
            self.give()

    @precondition(lambda self: any(member.machine is None for member in self.members))
    @rule(step=st.booleans())
    def come(self, step: bool) -> None:
        """All who are away."""
        self.all_here()
        if step:
            self.give()

    def all_here(self) -> None:
        for member in self.members:
            if member.machine is None:
                self.connect(member)

    @rule(number=st.integers(0, 2), writable=st.sampled_from([True, True, False]))
    def socket(self, number: int, writable: bool) -> None:
        """Above its high-water mark, or drained."""
        member = self.members[number]
        if member.machine is not None:
            member.machine.receiver.writable = writable
            if writable:
                self.pump(member)

    @precondition(lambda self: any(m.machine is not None and m.machine.state in (ASKING, SENDING_AGAIN) for m in self.members))
    @rule(number=st.integers(0, 2), limit=st.integers(1, 9))
    def awaited(self, number: int, limit: int) -> None:
        """What the member's machine awaits from outside, comes."""
        member = self.members[number]
        machine = member.machine
        if machine is None:
            return
        if machine.state == ASKING:
            self.loop.run_until_complete(self.access.settle(machine.receiver.info, Action.RECEIVE, machine.question))
            machine.answered()
        elif machine.state == SENDING_AGAIN:
            run = machine.run or []
            page = [entry for entry in self.entries[run[0].seq - 1 : run[-1].seq] if entry is not None][:limit]
            subscription = self.group.members.get(member.session)
            frames, dropped, released = machine.in_flight_came({entry.seq: entry for entry in page}, subscription)
            for slot in dropped:
                self.group.finished(slot)
            for slot in released:
                self.pubrel(member, slot.packet_id, slot.seq)
            self.received(member, b"".join(frames))
        self.pump(member)

    def pump(self, member: Member) -> None:
        """As the member's shell does, after whatever happens to it."""
        machine = member.machine
        if machine is None:
            return
        if machine.state == READY and machine.receiver.writable:
            self.received(member, b"".join(machine.step()))
        self.group.has_room(member.session)

    # --- the devices -----------------------------------------------------------------------------------------------------

    def received(self, member: Member, data: bytes, known: set[int] | None = None) -> None:
        for packet in member.decoder.feed(data):
            assert isinstance(packet, Publish | PubRel)
            if isinstance(packet, PubRel):
                seq = member.ids.get(packet.packet_id)
                if seq is not None and member.durable:
                    self.released.add(seq)
            else:
                self.message(member, packet, int.from_bytes(packet.payload[:4], "big"), known)
            if isinstance(packet, PubRel) or packet.qos:
                member.unanswered.append(packet)
        assert member.decoder.error is None

    def message(self, member: Member, packet: Publish, seq: int, known: set[int] | None) -> None:
        again = packet.dup
        assert seq in self.mine or again, "another's"
        assert member.session in self.group.members, "no member"
        assert seq not in self.done, "done, and yet given again"
        assert seq not in self.released, "at QoS 2 again"
        assert self.has.get(seq, member) is member, "another has it"
        assert self.stays.get(seq, member) is member, "at QoS 2 to another"
        if known is not None and seq not in known:
            assert self.rank[seq] > self.newest, "out of order"
            self.newest = self.rank[seq]
        if packet.qos == 0:
            self.done.add(seq)
            return
        if again:
            never = seq if self.crashed else None  # the broker may have died before it sent it
            before = member.ids.get(packet.packet_id, never)
            assert (packet.qos, before) == (2, seq), "with DUP, and not under way"
        else:
            assert self.crashed or member.ids.get(packet.packet_id) is None, "the identifier is in use"
        if packet.qos == 2:
            self.stays[seq] = member
            if member.durable:
                assert (packet.packet_id, seq) in [(i.packet_id, i.seq) for i in member.kept.inflight], "QoS 2 before its state"
                assert again or seq in [i.seq for i in self.kept.inflight], "QoS 2 before the group's state"
        self.has[seq] = member
        member.ids[packet.packet_id] = seq

    @precondition(lambda self: any(member.unanswered for member in self.members))
    @rule(number=st.integers(0, 2), data=st.data(), refused=st.sampled_from([False] * 4 + [True]))
    def acknowledge(self, number: int, data: st.DataObject, refused: bool) -> None:
        """In any order; ``refused``: with an error."""
        member = next(m for m in self.members[number:] + self.members if m.unanswered)
        if member.machine is not None:
            self.finish(member, data.draw(st.integers(0, len(member.unanswered) - 1)), refused)

    def finish(self, member: Member, index: int, refused: bool = False) -> None:
        packet = member.unanswered.pop(index)
        window, packet_id = member.session.window, packet.packet_id
        if isinstance(packet, Publish) and packet.qos == 2:
            slot = window.release(packet_id)
            if slot is not None and not refused:
                self.pubrel(member, packet_id, slot.seq)
                return
            slot = window.drop(packet_id) if slot is not None else None
            if slot is not None:
                self.stays.pop(slot.seq, None)
                self.save(member)
                self.kept = self.progress()
        else:
            slot = window.complete(packet_id) if isinstance(packet, PubRel) else window.acknowledge(packet_id)
        if slot is not None:
            seq = member.ids.pop(packet_id, slot.seq)  # the PUBCOMP before may have been lost with the broker
            assert seq == slot.seq
            self.has.pop(seq, None)
            self.done.add(seq)
            self.group.finished(slot)
        self.pump(member)

    def pubrel(self, member: Member, packet_id: int, seq: int) -> None:
        self.group.received_at(seq)
        if member.durable:
            member.saving.append(packet_id)
        else:
            self.received(member, b"\x62\x02" + packet_id.to_bytes(2, "big"))

    # --- what holds all the while ----------------------------------------------------------------------------------------

    @invariant()
    def the_offset_is_before_what_is_not_done(self) -> None:
        offset = self.group.offset
        early = {seq for seq in self.mine if seq <= offset} - self.done - self.given_up
        assert early <= {seq for seq in self.mine if self.may_go(seq)}
        assert not early & self.has.keys()

    def may_go(self, seq: int) -> bool:
        entry = self.entries[seq - 1]
        return entry is None or entry.message is None or seq in self.stays or bool(entry.message.expires)

    @invariant()
    def windows_are_kept(self) -> None:
        for member in self.members:
            assert len(member.session.window) <= self.window
            assert 0 <= member.session.window.on_wire <= self.quota

    @invariant()
    def a_range_is_told_when_it_is_done(self) -> None:
        for part in self.group.done():
            self.told.append(part)
            for seq in range(part.first, part.last + 1):
                assert seq not in self.group.pending or seq in self.given_back | self.has.keys() or self.rank[seq] != seq

    def teardown(self) -> None:
        """In the end all are here, and everything that was claimed is done."""
        if not hasattr(self, "loop"):
            return
        try:
            for member in self.members:
                self.join_with(member, 1)
            self.all_here()
            for member in self.members:
                self.socket(member.number, True)
            for _ in range(3000):
                self.give()
                if not self.one_more():
                    break
            lost = self.mine - self.done - self.given_up
            assert {seq for seq in lost if not self.may_go(seq)} == set(), "lost"
            assert self.group.pending == {}
            assert self.group.received == set()
            assert self.group.state == READY
            if self.alone:
                assert self.group.offset == len(self.entries)
            else:
                self.a_range_is_told_when_it_is_done()
                told = {seq for first, last in self.told for seq in range(first, last + 1)}
                assert self.mine <= told
        finally:
            self.access.close()
            self.loop.close()

    @rule(count=st.integers(1, 6))
    def go_on(self, count: int) -> None:
        """What is awaited comes."""
        for _ in range(count):
            self.give()
            self.one_more()

    def one_more(self) -> bool:
        """Whether there was something left to do."""
        if self.group.state in (READING, READING_AGAIN):
            self.page(4, False)
            return True
        for member in self.members:
            if member.machine is not None and member.machine.state in (ASKING, SENDING_AGAIN):
                self.awaited(member.number, 9)
            elif member.saving:
                self.saved(True)
            elif member.unanswered:
                self.finish(member, 0)
            else:
                continue
            return True
        return bool(self.group.reader.waiting or self.group.reader.needs_page)


TestSharedMachine = SharedDelivery.TestCase
TestSharedMachine.settings = settings(max_examples=examples(120), stateful_step_count=50, deadline=None)


# --- what random orders seldom come to -----------------------------------------------------------------------------------

QOS_1, QOS_2 = [("a", qos, False, False) for qos in (1, 2)]


def group(*, alone: bool = True, window: int = 100, options: int = 2) -> SharedDelivery:
    """Only member 0 is there; members 1 and 2 join by `subscribe`."""
    made = SharedDelivery()
    made.start(window=window, quota=65535, asks=False, alone=alone, options=[options] * 3)
    made.subscribe(1, None, False)
    made.subscribe(2, None, False)
    return made


def both(made: SharedDelivery) -> SharedDelivery:
    made.disconnect(made.members[1])
    made.connect(made.members[1])
    made.subscribe(1, 2, True)
    return made


def test_qos_2_that_was_sent_stays_with_its_member() -> None:
    made = group()
    made.commit([QOS_2], True, True)
    made.saved(False)
    both(made).lose(0, False, True)
    assert (made.group.state, made.group.pending) == (READY, {1: made.members[0].session})
    made.teardown()


def test_qos_2_that_is_held_goes_to_another_when_the_connection_ends() -> None:
    made = group()
    made.commit([QOS_2], True, True)
    both(made).lose(0, False, True)
    made.go_on(3)
    assert list(made.stays.values()) == [made.members[1]]
    made.teardown()


def test_what_a_member_received_goes_to_nobody_after_a_crash() -> None:
    """Its own state is newer than the group's."""
    made = group()
    made.commit([QOS_2], True, True)
    made.go_on(3)
    assert made.released == {1}
    made.finish(made.members[0], 0)
    made.save(made.members[0])
    made.crash(True)
    assert made.group.pending == {}
    made.teardown()


def test_qos_2_ends_with_its_member_over_a_crash_too() -> None:
    made = group()
    made.commit([QOS_2], True, True)
    made.saved(False)
    both(made).subscribe(0, None, True)
    made.crash(True)
    assert made.group.pending == {}
    assert made.group.cursor == 1
    made.teardown()


def test_what_others_were_given_before_a_crash_is_given_again() -> None:
    """Where the state of a member is newer than the group's."""
    made = group(options=1)
    made.commit([QOS_1, QOS_1], True, True)
    made.subscribe(0, 2, True)
    made.commit([QOS_2], True, True)
    made.save(made.members[0])
    made.crash(False)
    assert made.group.pending == {1: None, 2: None, 3: made.members[0].session}
    made.teardown()


def test_all_that_nobody_has_is_given_back() -> None:
    made = group(alone=False, window=1, options=1)
    made.commit([QOS_1] * 5, True, False)
    made.free = [5]
    made.mine = {1, 2, 3, 4}
    made.rank = {1: 1, 2: 2, 3: 1_000_003, 4: 1_000_004}
    made.claim(1, 2)
    made.claim(3, 4)
    made.give()
    made.page(1, True)
    assert list(made.has) == [1]
    both(made).lose(0, False, True)
    made.page(1, False)  # it is read, and not given again yet
    made.give_back()
    assert made.free == [1, 2, 3, 4, 5]
    assert made.group.pending == {}
    made.give()
    assert made.has == {}
    made.teardown()


def test_a_range_is_not_done_before_its_last_entry_is() -> None:
    made = group(alone=False, options=1)
    made.commit([QOS_1] * 3, True, False)
    made.free, made.mine, made.rank = [3], {1, 2}, {1: 1, 2: 2}
    made.claim(1, 2)
    made.give()
    made.page(4, True)
    assert made.has.keys() == {1, 2}
    made.finish(made.members[0], 1)
    assert made.group.done() == []
    made.finish(made.members[0], 0)
    assert made.group.done() == [(1, 2)]
    made.told = [SeqRange(1, 2)]
    made.teardown()


def test_what_nobody_is_left_to_take_is_given_up() -> None:
    made = group(options=1)
    made.commit([("a", 1, True, False), QOS_1], True, True)
    assert made.given_up == {1}
    assert made.has.keys() == {2}
    made.teardown()


LARGE_1, SMALL_1 = [("a", 1, large, False) for large in (True, False)]


def kept_for_member_1() -> SharedDelivery:
    """A message that member 0 has no room for, while member 1 is away; the group has gone on with the next one."""
    made = both(group(options=1))
    made.disconnect(made.members[1])
    made.commit([LARGE_1, SMALL_1], True, True)
    assert made.group.pending == {1: None, 2: made.members[0].session}
    return made


def test_what_was_kept_for_an_absent_member_is_given_to_it_when_it_comes() -> None:
    made = kept_for_member_1()
    made.connect(made.members[1])
    made.give()
    made.page(1, True)
    assert made.has[1] is made.members[1]
    made.teardown()


def test_what_was_kept_is_given_to_one_who_joins() -> None:
    made = kept_for_member_1()
    made.connect(made.members[2])
    made.join_with(made.members[2], 1)
    made.give()
    made.page(1, True)
    assert made.has[1] is made.members[2]
    made.teardown()


def test_what_was_kept_is_given_up_with_the_last_who_could_take_it() -> None:
    made = kept_for_member_1()
    made.subscribe(1, None, True)
    made.page(1, True)
    assert made.group.pending == {2: made.members[0].session}
    assert made.given_up == {1}
    made.teardown()


def test_what_was_removed_meanwhile_is_not_given_again() -> None:
    made = group(options=1)
    made.commit([QOS_1], True, True)
    made.entries[0] = None
    made.lose(0, True, True)
    made.page(1, True)
    assert made.group.pending == {}
    made.teardown()


def test_nothing_is_kept_in_memory_for_a_group_that_nobody_is_here_for() -> None:
    made = group(options=1)
    for member in made.members:
        made.disconnect(member)
    made.commit([QOS_1], True, True)
    assert made.group.reader.waiting == 0
    made.teardown()


def test_what_others_committed_is_read_from_storage() -> None:
    made = group(options=1)
    made.commit([QOS_1], True, True)
    made.entries.append(InboxEntry(2, Message(2, "a", "c/other", "other", 0, 1, (2).to_bytes(4, "big"))))
    made.mine.add(2)
    made.rank[2] = 2
    made.commit([QOS_1], True, True)
    made.go_on(2)
    assert made.has.keys() | made.done == {1, 2, 3}
    made.teardown()
