"""The in-flight window: identifiers, the order of acknowledgements, the offset, and the bound (laws 3 and 5)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.connection import Connection
from broker.sessions.session import Session
from broker.sessions.timeline import group_inbox
from broker.sessions.window import Window
from storage.records import DeviceKey, Inflight, InflightState
from tests.support.seeds import examples


class WindowMachine(RuleBasedStateMachine):
    """A device reads a timeline, acknowledges in any order, reconnects, and comes back after a crash."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 0
        self.window = Window(1)
        self.cursor = 0
        self.open: dict[int, tuple[int, int, str]] = {}  # packet id: seq, QoS, state
        self.sent: set[int] = set()
        """Packet ids sent over this connection and not finished."""

    @initialize(limit=st.integers(1, 6) | st.just(20), last=st.sampled_from([0, 65530, 65535]))
    def start(self, limit: int, last: int) -> None:
        self.limit = limit
        self.window = Window(limit)
        self.window._last_id = last

    @precondition(lambda self: not self.window.full)
    @rule(qos=st.integers(0, 2))
    def deliver(self, qos: int) -> None:
        """The next entry: written (QoS 0), or put in flight."""
        self.cursor += 1
        if not qos:
            return
        packet_id = self.window.take(self.cursor, qos)
        assert 1 <= packet_id <= 65535
        assert packet_id not in self.open, "an identifier in flight was given again"
        self.open[packet_id] = (self.cursor, qos, "published")
        self.sent.add(packet_id)

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """PUBACK, PUBREC or PUBCOMP for an identifier that may or may not be in the state that it needs."""
        packet_id = data.draw(st.sampled_from([*self.open, 1, 65535]))
        seq, qos, state = self.open.get(packet_id, (0, 0, ""))
        kind = data.draw(st.sampled_from(["puback", "pubrec", "pubcomp", "drop"]))
        if kind == "puback":
            slot, finished = self.window.acknowledge(packet_id), qos == 1
        elif kind == "pubrec":
            slot, finished = self.window.release(packet_id), False
            assert (slot is not None) == (qos == 2)
            if qos == 2:
                self.open[packet_id] = (seq, qos, "released")
            return
        elif kind == "pubcomp":
            slot, finished = self.window.complete(packet_id), state == "released"
        else:
            slot, finished = self.window.drop(packet_id), bool(qos)
        assert (slot is not None) == finished
        if finished:
            assert slot is not None
            assert (slot.seq, slot.done) == (seq, True)
            del self.open[packet_id]
            self.sent.discard(packet_id)

    @rule()
    def reconnect(self) -> None:
        self.window.disconnected()
        self.sent = set()

    @rule()
    def crash(self) -> None:
        """Storage knows the snapshot of this moment."""
        stored = self.window.snapshot()
        self.window = Window.restore(self.limit, stored)
        self.sent = set()
        assert self.window.snapshot() == stored

    @invariant()
    def offset_is_the_end_of_the_prefix_that_is_done(self) -> None:
        oldest = min((seq for seq, _, _ in self.open.values()), default=self.cursor + 1)
        assert self.window.offset(self.cursor) == oldest - 1

    @invariant()
    def pending_is_what_is_not_done_in_order(self) -> None:
        states = {"published": {1: InflightState.PUBLISHED_1, 2: InflightState.PUBLISHED_2}}
        wanted = [
            Inflight(packet_id, seq, states.get(state, {}).get(qos, InflightState.RELEASED))
            for packet_id, (seq, qos, state) in sorted(self.open.items(), key=lambda item: item[1][0])
        ]
        assert self.window.snapshot() == wanted
        assert [slot.packet_id for slot in self.window.pending()] == [entry.packet_id for entry in wanted]
        assert len(self.window) == len(wanted)

    @invariant()
    def what_a_device_may_get_twice_is_bounded(self) -> None:
        """From the oldest message that is not done there are at most ``limit`` of QoS 1 and 2."""
        assert len(self.open) <= self.limit
        order, done = self.window._order, self.window._done
        assert len(order) - done <= self.limit
        assert self.window.room == self.limit - len(order) + done
        assert self.window.full == (self.window.room == 0)
        assert not order or not order[done].done, "what is done and has nothing undone before it is counted as such"
        assert done < 64, "and is kept for a moment only"
        assert order or not done

    @invariant()
    def on_wire_counts_what_this_connection_carries(self) -> None:
        assert self.window.on_wire == len(self.sent)


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=examples(200), stateful_step_count=50, deadline=None)


def test_messages_of_other_timelines_do_not_hold_the_offset_back() -> None:
    window = Window(10)
    window.take(7, 1, group_inbox("group", "filter"))
    assert window.offset(3) == 3
    own = window.take(4, 1)
    assert window.offset(9) == 3
    window.acknowledge(own)
    assert window.offset(9) == 9


def test_all_identifiers_but_one_are_in_flight() -> None:
    window = Window(65535)
    ids = [window.take(n, 1) for n in range(1, 65536)]
    assert sorted(ids) == list(range(1, 65536))
    assert window.full
    for packet_id in ids[:-1]:
        window.acknowledge(packet_id)
    assert window.take(65536, 1) != ids[-1]


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=12) | st.sets(st.sampled_from(range(3, 65535, 4096)), min_size=2))
def test_whatever_identifiers_were_in_flight_each_is_found(ids: set[int]) -> None:
    """They follow each other, but for those of one that was stored in parts."""
    window = Window.restore(65535, [Inflight(packet_id, n, InflightState.PUBLISHED_1) for n, packet_id in enumerate(ids)])
    new = [window.take(100 + n, 1) for n in range(20)]
    assert not ids.intersection(new)
    for packet_id in [*ids, *new]:
        assert window.find(packet_id + 65536) is None
        slot = window.find(packet_id)
        assert slot is not None
        assert window.acknowledge(packet_id) is slot
        assert window.find(packet_id) is None
    assert len(window) == 0


@pytest.mark.inside
def test_a_message_that_stays_open_costs_no_more_places() -> None:
    """Its identifier's place comes round again and again; the window is not to make room for that each time."""
    window = Window(4)
    open_for_ever = window.take(1, 1)
    for seq in range(2, 70_000):
        packet_id = window.take(seq, 1)
        assert packet_id != open_for_ever
        assert window.acknowledge(packet_id) is not None
    assert len(window) == 1
    assert len(window._slots) == 8


@pytest.mark.inside
def test_what_one_session_has_in_flight_no_other_has() -> None:
    """Those with nothing in flight share an empty table."""
    one, other, restored = Window(4), Window(4), Window.restore(4, [])
    one.take(1, 1)
    restored.take(2, 2)
    assert (len(one), len(other), len(restored), other.room, Window(4).pending()) == (1, 0, 1, 4, [])
    assert (other.find(1), Window(4).find(2)) == (None, None)
    sessions = [Session(DeviceKey("u/ann", name), durable=True, window=4) for name in ("phone", "tablet")]
    sessions[0].receive(7, Connection.__new__(Connection))
    assert [list(session.received) for session in sessions] == [[7], []]
