"""The in-flight window of one device: outgoing QoS 1 and 2 messages from sending to the last acknowledgement. No I/O.

Rules it keeps:

- A packet identifier is in use from the PUBLISH until PUBACK or PUBCOMP, and is never given twice meanwhile [MQTT-2.2.1-4].
- The offset of the device is the entry before the oldest one that is not done; acknowledgements may come in any order.
- The window spans from the oldest message that is not done, so that what a device may get twice is bounded by its size.
- A packet identifier that has no message in the state that an acknowledgement needs changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mypy_extensions import mypyc_attr

from broker.sessions.timeline import INBOX, SETTLED, Timeline
from storage.records import Inflight, InflightState

PUBLISHED_1: Final = InflightState.PUBLISHED_1
PUBLISHED_2: Final = InflightState.PUBLISHED_2
RELEASED: Final = InflightState.RELEASED


@mypyc_attr(acyclic=True)
class Slot:
    """One outgoing message. ``sent``: it was sent over the present connection, and not finished since."""

    __slots__ = ("done", "packet_id", "sent", "seq", "state", "timeline")

    def __init__(self, packet_id: int, seq: int, state: InflightState, timeline: Timeline = INBOX) -> None:
        self.packet_id = packet_id
        self.seq = seq
        self.state = state
        self.timeline = timeline
        self.done = False
        self.sent = True


_NO_SLOTS: Final[list[Slot | None]] = [None]
_NO_ORDER: Final[list[Slot]] = []
"""Shared by all windows that never had anything in flight, as most idle connections: 120 bytes each. Nobody writes to them."""

_FIRST_SIZE: Final = 8

_TOGETHER: Final = 64
"""How many that are done are taken out of the order at once: to take one out moves all that are behind it."""


class Window:
    """What a device has not finished, in the order of sending."""

    __slots__ = ("_count", "_done", "_last_id", "_order", "_slots", "limit", "on_wire")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.on_wire = 0
        """Messages sent over the present connection and not finished: what MQTT 5's Receive Maximum bounds."""
        self._slots = _NO_SLOTS
        """Each where its identifier says, modulo the length, a power of two. They follow each other, so that a short list has a
        place for each, and to find one is a tenth of what a dictionary costs. No list is longer than four times what was in
        flight at once: a device that leaves one message open for ever has the identifiers skipped that would have its place."""
        self._count = 0
        self._order = _NO_ORDER  # not a deque, which takes 600 bytes while it is empty
        self._done = 0  # how many at its beginning are done, and still there
        self._last_id = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """No further message may be sent. True also while a finished one waits behind an unfinished one."""
        return len(self._order) - self._done >= self.limit

    @property
    def room(self) -> int:
        """How many further messages may be sent."""
        return max(0, self.limit - len(self._order) + self._done)

    def offset(self, cursor: int, timeline: Timeline = INBOX) -> int:
        """The highest entry of a timeline up to which all are done, given that nothing after ``cursor`` was looked at."""
        for slot in self._order:
            if slot.timeline == timeline and not slot.done:
                return slot.seq - 1
        return cursor

    def find(self, packet_id: int) -> Slot | None:
        """The message in flight that has this identifier."""
        slot = self._slots[packet_id & (len(self._slots) - 1)]
        return slot if slot is not None and slot.packet_id == packet_id else None

    def take(self, seq: int, qos: int, timeline: Timeline = INBOX) -> int:
        """Put a message of QoS 1 or 2 in flight and return its packet identifier. The window must not be full."""
        packet_id = self._last_id
        while True:
            packet_id = packet_id + 1 if packet_id < 65535 else 1
            if self._has_place(packet_id, may_skip=True):
                break
        self._last_id = packet_id
        self._put(Slot(packet_id, seq, PUBLISHED_1 if qos == 1 else PUBLISHED_2, timeline))
        self.on_wire += 1
        return packet_id

    def _has_place(self, packet_id: int, *, may_skip: bool) -> bool:
        """Whether the identifier can be given. Where another one is in its place there are more from now on; but with
        ``may_skip`` and half of them free, it cannot be given."""
        if self._slots is _NO_SLOTS:
            self._slots, self._order = [None] * _FIRST_SIZE, []
        slots = self._slots
        while (there := slots[packet_id & (len(slots) - 1)]) is not None:
            if there.packet_id == packet_id or (may_skip and 2 * self._count < len(slots)):
                return False
            slots = self._slots = self._twice_the_places()
        return True

    def _twice_the_places(self) -> list[Slot | None]:
        size = 2 * len(self._slots)
        slots: list[Slot | None] = [None] * size
        for slot in self._slots:
            if slot is not None:
                slots[slot.packet_id & (size - 1)] = slot
        return slots

    def _put(self, slot: Slot) -> None:
        """Add the newest, in its place."""
        slots = self._slots
        slots[slot.packet_id & (len(slots) - 1)] = slot
        self._order.append(slot)
        self._count += 1

    def acknowledge(self, packet_id: int) -> Slot | None:
        """PUBACK: the slot that is now done, or None where no QoS 1 message has this identifier."""
        slot = self.find(packet_id)
        if slot is None or slot.state is not PUBLISHED_1:
            return None
        self._finish(slot)
        return slot

    def release(self, packet_id: int) -> Slot | None:
        """PUBREC: the slot to send PUBREL for (again, if it came twice), or None for an unknown identifier."""
        slot = self.find(packet_id)
        if slot is None or slot.state is PUBLISHED_1:
            return None
        slot.state = RELEASED
        return slot

    def complete(self, packet_id: int) -> Slot | None:
        """PUBCOMP: the slot that is now done, or None where the identifier was not released."""
        slot = self.find(packet_id)
        if slot is None or slot.state is not RELEASED:
            return None
        return self.drop(packet_id)

    def drop(self, packet_id: int) -> Slot | None:
        """Finish a message whatever its state: refused by the device, or no longer to be had."""
        slot = self.find(packet_id)
        if slot is not None:
            self._finish(slot)
        return slot

    def settle(self, through: int | None = None, timeline: Timeline = INBOX) -> None:
        """Take a timeline's messages up to a sequence (None: all) out of what holds its offset: they were acknowledged
        otherwise, or the offset was set back before them.

        A QoS 2 exchange still goes on to its end, as its packet identifier means something to the client.
        """
        for slot in list(self._order):
            if slot.done or slot.timeline != timeline or (through is not None and slot.seq > through):
                continue
            if slot.state is PUBLISHED_1 and not slot.sent:
                self.drop(slot.packet_id)
                continue
            slot.timeline = SETTLED
            if not slot.sent:
                slot.state = RELEASED

    def _finish(self, slot: Slot) -> None:
        slots = self._slots
        slots[slot.packet_id & (len(slots) - 1)] = None
        self._count -= 1
        slot.done = True
        if slot.sent:
            self.on_wire -= 1
        order, done = self._order, self._done
        if order[done].done:
            done += 1
            while done < len(order) and order[done].done:
                done += 1
            if done == len(order):
                order.clear()
                done = 0
            elif done >= _TOGETHER:
                del order[:done]
                done = 0
            self._done = done

    def pending(self) -> list[Slot]:
        """What is not done, in the order of sending."""
        return [slot for slot in self._order if not slot.done]

    def snapshot(self) -> list[Inflight]:
        """What is not done, as storage keeps it."""
        return [Inflight(s.packet_id, s.seq, s.state, s.timeline) for s in self._order if not s.done]

    def disconnected(self) -> None:
        """The connection ended: nothing is on the wire."""
        self.on_wire = 0
        for slot in self._order:
            slot.sent = False
            if slot.timeline == SETTLED and slot.state is PUBLISHED_2:
                slot.state = RELEASED

    @classmethod
    def restore(cls, limit: int, entries: Iterable[Inflight]) -> Window:
        """A window as it was stored, with nothing on the wire."""
        window = cls(limit)
        for entry in entries:
            window._has_place(entry.packet_id, may_skip=False)
            window._put(Slot(entry.packet_id, entry.seq, entry.state, Timeline(entry.timeline)))
            window._last_id = max(window._last_id, entry.packet_id)
        window.disconnected()
        return window
