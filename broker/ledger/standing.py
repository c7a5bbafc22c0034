"""Where a device stands on a timeline, and what that says of one entry. No I/O.

| place | the entry is |
|---|---|
| not due | not for this device: see `Place.reason` |
| stored | in the inbox, and not given yet |
| delivered | given, and not acknowledged |
| acknowledged | acknowledged; at QoS 0, which has no acknowledgement, written |

Nothing is written for an entry and a device. The offset, the cursor and the in-flight list that each device has anyway decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from broker.packets import NO_LOCAL, matches
from broker.sessions import INBOX, Member, Session, Timeline, is_channel, is_group, member_device
from storage.records import Device, Message

UNKNOWN = -1
"""Of a subscription in a channel, storage keeps no options."""


class State(IntEnum):
    """See the module; the later ones include the earlier ones."""

    NOT_DUE = 0
    STORED = 1
    DELIVERED = 2
    ACKNOWLEDGED = 3


class Filter(NamedTuple):
    """A subscription of a device. ``options`` is the byte of `storage.records.Subscription`, or `UNKNOWN`."""

    filter: str
    options: int
    since: int


class Standing(NamedTuple):
    """A device on one timeline, in plain values, as they go from node to node. ``name`` is its client id in storage, by which
    devices are paged: of a channel that of the member."""

    user: str
    client: str
    name: str
    connected: bool
    offset: int
    cursor: int
    inflight: Sequence[int]
    """The sequences up to the cursor that are not done."""
    filters: Sequence[Filter]


class Place(NamedTuple):
    """What is so of an entry and a device. ``qos`` is None where it is not known. ``reason``, of one that is not due: no
    ``filter`` matches, the filter came behind the entry (``since``), it is the device's ``own``, access control has ``denied``
    it, or it had ``expired``."""

    state: State
    reason: str = ""
    qos: int | None = None


def stored_standing(device: Device) -> Standing:
    """As storage has a device: of one that is connected, up to a second old."""
    user, name = device.key
    channel = is_channel(user)
    whose = member_device(device.key) if channel else device.key
    timeline = user if channel else INBOX
    inflight = [one.seq for one in device.inflight if is_group(user) or (one.timeline == timeline and one.packet_id)]
    filters = [Filter(s.filter, UNKNOWN if channel else s.options, s.since) for s in device.subscriptions.values()]
    return Standing(whose.user, whose.client_id, name, device.node > 0, device.offset, device.cursor, inflight, filters)


def session_standing(session: Session, member: Member | None = None) -> Standing:
    """As memory has it: a session in its inbox, or as the member of a channel."""
    timeline = Timeline(member.channel) if member is not None else INBOX
    cursor = session.cursor if member is None else member.position
    inflight = [slot.seq for slot in session.window.pending() if slot.timeline == timeline]
    kept = session.subscriptions
    if member is None:
        filters = [Filter(s.filter, s.options, s.since) for s in kept.values() if s.filter not in session.shared_filters]
    else:
        filters = [Filter(name, kept[name].options if name in kept else UNKNOWN, at) for name, at in member.since.items()]
    name = session.key.client_id if member is None else member.key.client_id
    connected = session.connection is not None and session.connection.open
    offset = session.window.offset(cursor, timeline)
    return Standing(*session.key, name, connected, offset, cursor, inflight, filters)


def plain(standing: Standing) -> list[object]:
    """For a note to another node."""
    return [*standing[:6], list(standing.inflight), [list(one) for one in standing.filters]]


def from_plain(values: Sequence[Any]) -> Standing:
    """What `plain` made."""
    return Standing._make([*values[:7], [Filter(*one) for one in values[7]]])


def place(standing: Standing, entry: int, message: Message, *, now: int, allowed: bool = True, passed_after: int = 0) -> Place:
    """What is so of the entry with this sequence, which has this message.

    ``now`` is the time (ms). ``allowed``: what access control says. ``passed_after``: when the device was known to stand before
    the entry last (0: not known): one that had expired by then was passed over.
    """
    state = _state(standing, entry)
    if is_group(standing.user):  # its members' filters are its own
        return Place(state)
    matching = [one for one in standing.filters if matches(one.filter, message.topic)]
    due = [one for one in matching if one.since < entry]
    own = message.user == standing.user and message.device == standing.client
    wanted = [one for one in due if not (own and one.options != UNKNOWN and one.options & NO_LOCAL)]
    if not wanted:
        reason = "own" if due else "since" if matching else "filter"
        return Place(State.NOT_DUE, reason)
    if not allowed:
        return Place(State.NOT_DUE, "denied")
    if message.expires and ((state is State.STORED and message.expired(now)) or passed_after >= message.expires):
        return Place(State.NOT_DUE, "expired")
    known = [one.options & 3 for one in wanted if one.options != UNKNOWN]
    return Place(state, "", min(message.qos, max(known)) if len(known) == len(wanted) else None)


def _state(standing: Standing, entry: int) -> State:
    if entry > standing.cursor:
        return State.STORED
    return State.DELIVERED if entry in standing.inflight else State.ACKNOWLEDGED
