"""One device's delivery machine under any order of commits, pages, acknowledgements, answers, takeovers, set-backs and crashes.

Nothing here is a socket or a storage: the rules below are both, and the device at the other end. Laws 1 and 3 to 5 are held,
as a client can see them.
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
from broker.delivery.machine import ASKING, BATCH, HOLDING, READING, READY, SENDING_AGAIN, Machine
from broker.packets.decoder import Decoder
from broker.packets.model import Publish, PubRel
from broker.routing.trie import Trie
from broker.server import Server
from broker.sessions.cursor import Cursor, Head
from broker.sessions.session import Session
from broker.sessions.timeline import SETTLED
from broker.sessions.window import Window
from storage.records import EXPIRES_AT_ONCE, DeviceKey, InboxEntry, Message, Progress, Subscription
from tests.support.broker import settings as broker_settings
from tests.support.seeds import examples

pytestmark = pytest.mark.inside

KEY = DeviceKey("c/d", "d")
TOPICS = ["a", "a", "b", "denied", "another's"]
LARGE = 300
"""A payload that the device has no room for, in bytes, and its maximum packet size."""


class Denying:
    """A topic plugin that denies one topic, and takes its time."""

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        await asyncio.sleep(0)
        return topic != "denied"


class Plugins(NamedTuple):
    """What an `AccessControl` takes."""

    auth_plugins: list[Any]
    topic_plugins: list[Any]


class DeliveryMachine(RuleBasedStateMachine):
    """``entries`` is the inbox; ``durable`` the device's progress in storage.

    ``due``: by sequence, whether an entry must have come by the end, or may. ``got`` and ``done``: what the device has
    received, and acknowledged to the end, so that it may not come again. ``this_time``: what came over the present connection.
    """

    @initialize(
        window=st.sampled_from([1, 2, 100]),
        quota=st.sampled_from([1, 3, 65535]),
        asks=st.sampled_from([False, False, True]),
        qos=st.sampled_from([2, 2, 1, 0]),
    )
    def start(self, window: int, quota: int, asks: bool, qos: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.server = Server(broker_settings())
        self.access = AccessControl(Plugins([], [Denying()] if asks else []))
        self.asks, self.window_size, self.quota = asks, window, quota
        self.entries: list[InboxEntry] = []
        self.head = Head(0)
        self.trie: Trie[Any] = Trie()
        self.subscriptions = {name: Subscription(name, qos) for name in ("a", "b", "denied")}
        self.session = self.new_session()
        self.durable = Progress(KEY, 1, 0, 0, [])
        self.saving: list[int] = []
        """What waits for the progress: 0 for the held frames, or the packet identifier to release."""
        self.due: dict[int, bool] = {}
        self.got: set[int] = set()
        self.done: set[int] = set()
        self.ids: dict[int, int] = {}
        self.crashed = False
        self.connect()

    def new_session(self) -> Session:
        session = Session(KEY, durable=True, window=self.window_size)
        session.subscriptions = dict(self.subscriptions)
        for name, subscription in self.subscriptions.items():
            self.trie.add(name, session, subscription)
        return session

    def connect(self) -> None:
        connection = Connection(self.server, "test")
        connection.receive_maximum, connection.max_packet_size = self.quota, LARGE
        connection.info = SessionInfo(Identity(KEY.user, None, True), AuthRequest(KEY.client_id, None, None))
        self.cursor = Cursor(self.head, self.session.cursor)
        self.session.attach(self.cursor)
        self.machine = Machine(self.session, self.cursor, connection, self.trie, self.access, Counters(), ServerTime())
        self.decoder = Decoder("client", version=4)
        self.unanswered: list[Publish | PubRel] = []
        self.this_time: set[int] = set()
        self.old_ids = {slot.packet_id for slot in self.session.window.pending() if slot.timeline == SETTLED}
        """Of messages that were under way when the offset was set back: they come to their end, and come anew as well."""

    # --- the broker's side -----------------------------------------------------------------------------------------------

    @rule(
        group=st.lists(
            st.tuples(
                st.sampled_from(TOPICS), st.sampled_from([2, 2, 1, 0]), st.sampled_from([False] * 7 + [True]), st.booleans()
            ),
            min_size=1,
            max_size=4,
        ),
        turns=st.integers(0, 2),
    )
    def commit(self, group: list[tuple[str, int, bool, bool]], turns: int) -> None:
        """Entries of the user's inbox, which may be another device's; ``brief``: with an expiry interval of 0."""
        for topic, qos, large, brief in group:
            seq = len(self.entries) + 1
            payload = seq.to_bytes(4, "big") + bytes(LARGE if large else 0)
            message = Message(seq, topic, "c/other", "other", 0, qos, payload)
            message.expires = EXPIRES_AT_ONCE if brief else 0
            entry = InboxEntry(seq, message)
            self.entries.append(entry)
            self.head.seq = seq
            if topic != "another's":
                if not large and not (topic == "denied" and self.asks):
                    self.due[seq] = self.cursor.live or not brief
                self.cursor.push(entry)
        self.write(turns)

    def too_late(self, after: int) -> None:
        """What expires at once, and was not sent, need not come from storage."""
        for seq in self.due:
            message = self.entries[seq - 1].message
            if seq > after and seq not in self.got and message is not None and message.expires:
                self.due[seq] = False

    @precondition(lambda self: self.cursor.waiting)
    @rule()
    def memory_is_short(self) -> None:
        self.too_late(self.cursor.position)
        self.cursor.fall_behind()

    @rule(turns=st.integers(1, 3))
    def write(self, turns: int) -> None:
        for _ in range(turns):
            if self.machine.state != READY:
                return
            frames = self.machine.step()
            assert sum(map(len, frames)) <= BATCH + LARGE, "more than a batch at once"
            self.received(b"".join(frames))
            if self.machine.state == HOLDING:
                self.saving.append(0)

    @precondition(lambda self: self.machine.state == READING)
    @rule(limit=st.integers(1, 4))
    def page(self, limit: int) -> None:
        after = self.cursor.position
        self.machine.page_came(self.entries[after : after + limit], after, self.head.seq)

    @precondition(lambda self: self.machine.state == ASKING)
    @rule()
    def answer(self) -> None:
        info = self.machine.receiver.info
        self.loop.run_until_complete(self.access.settle(info, Action.RECEIVE, self.machine.question))
        self.machine.answered()

    @precondition(lambda self: self.machine.state == SENDING_AGAIN)
    @rule(limit=st.integers(1, 9))
    def in_flight(self, limit: int) -> None:
        run = self.machine.run
        assert run is not None
        page = self.entries[run[0].seq - 1 : run[-1].seq][:limit]
        frames, dropped, released = self.machine.in_flight_came({entry.seq: entry for entry in page}, None)
        assert (dropped, released) == ([], [])
        self.received(b"".join(frames))

    @precondition(lambda self: self.saving or self.durable.cursor != self.session.cursor)
    @rule()
    def saved(self) -> None:
        """The session's progress is durable, as it is now; what waited for that goes on."""
        self.durable = self.session.progress()
        waiting, self.saving = self.saving, []
        for packet_id in waiting:
            if packet_id:
                self.received(b"\x62\x02" + packet_id.to_bytes(2, "big"))
            else:
                self.received(b"".join(self.machine.durable()))

    @precondition(lambda self: self.entries and self.got)
    @rule(data=st.data())
    def set_offset(self, data: st.DataObject) -> None:
        """By hand, forward or back, under the connected device."""
        self.set_to(data.draw(st.integers(0, self.head.seq)))

    def set_to(self, offset: int) -> None:
        session = self.session
        back = offset < session.offset
        session.window.settle(None if back else offset)
        self.old_ids |= {slot.packet_id for slot in session.window.pending() if slot.timeline == SETTLED}
        session.cursor = offset if back else max(session.cursor, offset)
        self.machine.moved()
        self.durable = session.progress()
        for seq in self.due:
            message = self.entries[seq - 1].message
            assert message is not None
            if seq <= offset:
                self.due[seq] = False
            elif back:
                self.due[seq] = not message.expires
        self.too_late(session.cursor)
        if back:
            self.got = {seq for seq in self.got if seq <= offset}
            self.done = {seq for seq in self.done if seq <= offset}
            self.this_time.clear()

    @precondition(lambda self: len(self.session.window) > 0 or self.saving or self.cursor.waiting)
    @rule(crashed=st.booleans(), turns=st.integers(0, 1))
    def reconnect(self, crashed: bool, turns: int) -> None:
        """By a takeover or a lost network; or the broker was killed, and has what was durable."""
        self.machine.closed()
        self.machine.page_came([], self.cursor.position, self.head.seq)  # what it awaited may still come
        self.machine.answered()
        self.machine.moved()
        assert self.machine.in_flight_came({}, None) == ([], [], [])
        assert self.machine.step() == self.machine.durable() == []
        self.saving.clear()
        self.crashed |= crashed
        if crashed:
            for name in self.subscriptions:
                self.trie.remove(name, self.session)
            self.session = self.new_session()
            self.session.window = Window.restore(self.window_size, self.durable.inflight)
            self.session.cursor = self.durable.cursor
            self.done = {seq for seq in self.done if seq <= self.durable.offset}
        else:
            self.session.detach()
            self.session.window.disconnected()
            self.durable = self.session.progress()
        self.too_late(self.session.cursor)
        self.connect()
        self.write(turns)

    # --- the device's side -----------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        for packet in self.decoder.feed(data):
            assert isinstance(packet, Publish | PubRel)
            if isinstance(packet, Publish):
                self.message(packet, int.from_bytes(packet.payload[:4], "big"))
            if isinstance(packet, PubRel) or packet.qos:
                self.unanswered.append(packet)
        assert self.decoder.error is None

    def message(self, packet: Publish, seq: int) -> None:
        assert seq in self.due, "not due"
        again: set[int] = set()
        if packet.qos == 2:
            kept = [slot.seq for slot in self.durable.inflight if slot.packet_id == packet.packet_id]
            assert kept == [seq], "QoS 2 before its state is durable"
        if packet.qos:
            assert self.crashed or self.ids.get(packet.packet_id, seq) == seq, "the identifier is in use"
            again = {seq} if self.ids.get(packet.packet_id) == seq and not self.crashed else set()
            self.ids[packet.packet_id] = seq
        if packet.packet_id in self.old_ids:
            return
        assert packet.dup or seq not in again, "sent again without DUP"
        assert seq not in self.this_time, "twice over one connection"
        assert seq not in self.done, "acknowledged, and yet sent again"
        assert packet.dup or seq in self.got or seq > max(self.got, default=0), "out of order"
        self.this_time.add(seq)
        self.got.add(seq)

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """In any order."""
        self.finish(data.draw(st.integers(0, len(self.unanswered) - 1)))

    def finish(self, index: int) -> None:
        packet = self.unanswered.pop(index)
        window, packet_id = self.session.window, packet.packet_id
        if isinstance(packet, Publish) and packet.qos == 2:
            if window.release(packet_id) is not None:
                self.saving.append(packet_id)
            return
        slot = window.complete(packet_id) if isinstance(packet, PubRel) else window.acknowledge(packet_id)
        seq = self.ids.pop(packet_id, 0)
        if packet_id in self.old_ids:
            self.old_ids.discard(packet_id)
        elif slot is not None and seq:
            self.done.add(seq)

    # --- what holds all the while ----------------------------------------------------------------------------------------

    @invariant()
    def the_window_is_kept(self) -> None:
        window = self.session.window
        assert len(window) <= self.window_size
        assert 0 <= window.on_wire <= self.quota

    @invariant()
    def the_offset_is_before_what_is_not_done(self) -> None:
        offset = self.session.offset
        assert [seq for seq, must in self.due.items() if must and seq <= offset and seq not in self.got] == []

    def teardown(self) -> None:
        """In the end everything that was due has come."""
        if not hasattr(self, "loop"):
            return
        try:
            for _ in range(1000):
                self.write(1)
                if self.machine.state == READING:
                    self.page(4)
                elif self.machine.state == ASKING:
                    self.answer()
                elif self.machine.state == SENDING_AGAIN:
                    self.in_flight(9)
                elif self.saving:
                    self.saved()
                elif self.unanswered:
                    self.finish(0)
                elif self.session.cursor == self.head.seq and not len(self.session.window):
                    break
            assert [seq for seq, must in self.due.items() if must and seq not in self.got] == [], "lost"
            assert (self.session.offset, self.machine.state) == (self.head.seq, READY)
            assert len(self.session.window) == 0, "not brought to its end"
        finally:
            self.access.close()
            self.loop.close()


TestMachine = DeliveryMachine.TestCase
TestMachine.settings = settings(max_examples=examples(150), stateful_step_count=50, deadline=None)


# --- what random orders seldom come to ---------------------------------------------------------------------------------------

QOS_0, QOS_1, QOS_2 = [("a", qos, False, False) for qos in range(3)]


def machine(*, quota: int = 65535, qos: int = 2) -> DeliveryMachine:
    made = DeliveryMachine()
    made.start(window=100, quota=quota, asks=False, qos=qos)
    return made


def test_what_was_in_flight_comes_again_with_dup() -> None:
    device = machine(qos=1)
    device.commit([QOS_1], 1)
    device.reconnect(False, 1)
    device.in_flight(9)
    assert device.this_time == {1}
    device.teardown()


def test_what_is_held_comes_also_after_the_offset_was_set() -> None:
    device = machine()
    device.commit([QOS_2], 1)
    device.set_to(0)
    device.saved()
    assert device.this_time == {1}
    device.teardown()


def test_qos_0_behind_a_held_message_is_not_lost_with_the_connection() -> None:
    device = machine()
    device.commit([QOS_2, QOS_0], 1)
    device.reconnect(False, 0)
    device.teardown()


def test_what_was_to_be_sent_again_is_also_after_the_offset_was_set() -> None:
    device = machine(qos=1)
    device.commit([QOS_1] * 3, 1)
    device.reconnect(False, 1)
    device.set_to(1)
    device.teardown()


def test_the_receive_maximum_bounds_what_is_sent_again_too() -> None:
    """The device comes back with a lower one than what it has in flight."""
    device = machine(qos=1)
    device.commit([QOS_1] * 3, 2)
    device.quota = 1
    device.reconnect(False, 1)
    device.in_flight(9)
    device.the_window_is_kept()
    device.teardown()
