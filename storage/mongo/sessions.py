"""What a group does to devices and their subscriptions. No I/O.

Over 300 lines: what each kind of operation does to a device is one method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from storage import rules
from storage.cluster import HELD, Change
from storage.errors import MessageRefused, Superseded
from storage.mongo.codec import Kept, claim_id, device_document, device_id, gone_device, subscription_document, subscription_id
from storage.mongo.view import View, Write
from storage.records import (
    Announce,
    CloseSession,
    Device,
    DeviceKey,
    OpenSession,
    Operation,
    Progress,
    Release,
    Subscribe,
    Subscription,
    Unsubscribe,
)

MAX_WILL = 8 << 20
"""Bytes of the largest will that fits a device's document."""


class Sessions:
    """The devices of a group, changed in its order. ``entry`` numbers an inbox entry; the rest is the plan's."""

    def __init__(
        self, view: View, entry: Callable[..., int], head: Callable[[str], int], numbered: Sequence[tuple[str, int, int]]
    ) -> None:
        """``head``: where an inbox ends at this place in the group; ``numbered``: user, sequence and time of entries so far."""
        self._view = view
        self._entry = entry
        self._head = head
        self._numbered = numbered
        self.devices: dict[DeviceKey, Kept | None] = {}
        """Those that the group touched, as they are after it; None for one that is gone."""
        self._reset: dict[DeviceKey, None] = {}
        self._gone: dict[DeviceKey, Kept] = {}
        """As they were at their end."""
        self._released: dict[str, int] = {}
        self._subscriptions: dict[DeviceKey, dict[str, Subscription | None]] = {}
        self._opened: list[tuple[OpenSession, int, int, bool, bytes | None]] = []
        self._subscribed: list[tuple[Subscribe, list[int], list[int]]] = []

    def apply(self) -> dict[type, Callable[[Any], None]]:
        """What is done with each kind of operation."""
        return {
            OpenSession: self._open,
            CloseSession: self._close,
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            Progress: self._progress,
            Release: self._release,
        }

    def applied(self) -> None:
        """All of the group is: lets go of the plan. Else both would stay until the garbage collector comes."""
        del self._entry, self._head

    def _device(self, key: DeviceKey) -> Kept | None:
        if key in self.devices:
            return self.devices[key]
        found = self._view.devices.get(key)
        kept = self.devices[key] = found.copy() if found else None
        return kept

    def _current(self, key: DeviceKey, epoch: int) -> Device | None:
        kept = self._device(key)
        if kept is not None and rules.is_late(epoch, kept.device, self._view.node):
            raise _superseded(key, epoch, kept.device.epoch)
        return kept.device if kept is not None else None

    def _mine(self, key: DeviceKey) -> Kept | None:
        kept = self._device(key)
        if kept is not None and kept.device.node != self._view.node:
            raise Superseded(f"device {key.client_id!r} of {key.user!r} has connected through another node")
        return kept

    # --- operations ------------------------------------------------------------------------------------------------

    def received(self, key: DeviceKey, packet_id: int, *, stored: bool) -> None:
        """An inbound QoS 2 message, ``stored`` already or not; then raises `Superseded` where another node has the device."""
        kept = self._device(key) if stored else self._mine(key)
        if kept is not None:
            kept.device.received.add(packet_id)

    def published(self, key: DeviceKey, epoch: int) -> None:
        """Any other message of a device: it keeps its place behind the QoS 2 for which that was read, and raises the same."""
        if key in self._view.devices:
            self._current(key, epoch)

    def _release(self, op: Release) -> None:
        if (kept := self._mine(op.device)) is not None:
            kept.device.received.discard(op.packet_id)
            self._released[claim_id(op.device, op.packet_id)] = kept.device.epoch

    def _progress(self, op: Progress) -> None:
        if (device := self._current(op.device, op.epoch)) is not None:
            rules.advance(device, op)

    def _open(self, op: OpenSession) -> None:
        head = self._head(op.device.user)
        kept = self._device(op.device)
        latest = kept.device.epoch if kept is not None else self._ended(op.device)
        again = kept is not None and (latest, kept.device.node) == (op.epoch, self._view.node)
        if op.epoch <= latest and not again and not op.shared:
            raise _superseded(op.device, op.epoch, latest)
        start = rules.Start.parse(op.start)
        _refuse_large_will(op.will)
        created = kept is None or op.clean or rules.made_by(latest, kept.device.created_at, op)
        overtaken = None
        if kept is not None and not (again or op.shared) and (op.clean or kept.device.node not in (0, self._view.node)):
            overtaken = kept.device.will
        if kept is None or op.clean:
            offset = self._start(op.device.user, head, start)
            self._forget(op.device)
            kept = Kept(rules.new_device(op, offset), self._view.version, 0)
            self.devices[op.device] = kept
        device = kept.device
        rules.begin(device, op)
        if op.shared:
            device.epoch = max(op.epoch, latest + 1)
        else:
            device.node = self._view.node
        self._opened.append((op, head, device.offset, created, overtaken))

    def _ended(self, key: DeviceKey) -> int:
        """The epoch that an earlier session of a device ended with."""
        gone = self._gone.get(key)
        return gone.device.epoch if gone is not None else self._view.ended.get(key, (0, 0))[1]

    def _start(self, user: str, head: int, start: rules.Start) -> int:
        def before(time: int) -> int:
            if (stored := self._view.since.get((user, time))) is not None:
                return stored - 1
            return next((seq - 1 for owner, seq, at in self._numbered if owner == user and seq and at >= time), head)

        return start.offset(head, lambda: self._view.floors.get(user, 0), before)

    def _close(self, op: CloseSession) -> None:
        _refuse_large_will(op.will)
        device = self._current(op.device, op.epoch)
        if device is None:
            return
        if op.delete:
            self._forget(op.device)
            gone, self.devices[op.device] = self.devices[op.device], None
            assert gone is not None
            self._gone[op.device] = gone
            return
        rules.end(device, op)
        device.node = 0

    def _forget(self, key: DeviceKey) -> None:
        if (kept := self.devices.get(key)) is not None:  # nobody will release what it had received
            self._released.update({claim_id(key, packet_id): kept.device.epoch for packet_id in kept.device.received})
        self._reset[key] = None
        self._subscriptions.pop(key, None)

    def _subscribe(self, op: Subscribe) -> None:
        device = self._current(op.device, op.epoch)
        head = self._head(op.device.user)
        sinces = []
        for new in op.subscriptions:
            old = self._subscription(op.device, new.filter) if device else None
            since = rules.since(new, old.since if old else None, head)
            sinces.append(since)
            if device:
                kept = self._subscriptions.setdefault(op.device, {})[new.filter] = new.copy()
                kept.since = since
        seqs = []
        if device:
            user, target = op.device
            clock = self._view.clock
            seqs = [self._entry(k, user, m.id, len(m.payload), max(clock, m.time), target) for k, m in enumerate(op.retained)]
        self._subscribed.append((op, sinces, seqs))

    def _subscription(self, key: DeviceKey, name: str) -> Subscription | None:
        changed = self._subscriptions.get(key)
        if changed is not None and name in changed:
            return changed[name]
        return None if key in self._reset else self._view.subscriptions.get(key, {}).get(name)

    def _unsubscribe(self, op: Unsubscribe) -> None:
        if self._current(op.device, op.epoch) is not None:
            self._subscriptions.setdefault(op.device, {}).update(dict.fromkeys(op.filters))

    # --- what comes of it ------------------------------------------------------------------------------------------

    def changes(self) -> rules.Changes:
        """What the other nodes are to be told."""
        found = rules.Changes([], [])
        for key in self.devices:
            changes = rules.changes(key, self._standing_before(key), self._standing(key))
            found.first.extend(changes.first)
            found.last.extend(changes.last)
        return found

    def _standing_before(self, key: DeviceKey) -> rules.Standing | None:
        kept = self._view.devices.get(key)
        if kept is None:
            return None
        return rules.Standing(kept.device.epoch, kept.device.node, tuple(self._view.subscriptions.get(key, ())))

    def _standing(self, key: DeviceKey) -> rules.Standing | None:
        kept = self.devices[key]
        if kept is None:
            return None
        names = dict.fromkeys(self._subscriptions.get(key, {}))
        if key not in self._reset:
            names.update(dict.fromkeys(self._view.subscriptions.get(key, ())))
        return rules.Standing(
            kept.device.epoch, kept.device.node, [name for name in names if self._subscription(key, name) is not None]
        )

    def writes(self) -> Iterator[Write]:
        """The writes of devices, which are to be made first: the rest is of no effect where one of them fails."""
        for key, kept in self.devices.items():
            before = self._view.devices.get(key)
            seen = before.revision if before is not None else self._view.ended.get(key, (-1, 0))[0]
            revision = seen + 1 if seen >= 0 else self._view.now
            if kept is None:
                if key in self._gone:  # also where it came in this very group: a late opening must find it
                    mark = gone_device(self._view.now)
                    new = {**device_document(self._gone[key]), **mark} if seen < 0 else {**mark, "epoch": self._ended(key)}
                    yield Write("devices", "set" if seen < 0 else "change", device_id(key), new, revision, seen)
                continue
            new = device_document(kept)
            if before is not None and before.generation == kept.generation:
                old = {} if before.device.restored else device_document(before)  # of one there is more than was read of it
                new = {name: value for name, value in new.items() if name not in old or value != old[name]}
                if not new and not any(self._subscription_writes(key, kept, revision)):
                    continue
            kept.revision = revision
            yield Write("devices", "set" if seen < 0 else "change", device_id(key), new, revision, seen)

    def writes_behind(self) -> Iterator[Write]:
        """Those that follow the devices', in any order."""
        for key in self._reset:
            if (before := self._view.devices.get(key)) is not None:
                fields = {"user": {"$eq": key.user}, "client": {"$eq": key.client_id}, "generation": before.generation}
                yield Write("subscriptions", "sweep", "", fields)
        for key, kept in self.devices.items():
            if kept is not None:
                yield from self._subscription_writes(key, kept, kept.revision)
        for name, epoch in self._released.items():
            yield Write("claims", "release", name, {"epoch": {"$lte": epoch}})

    def _subscription_writes(self, key: DeviceKey, kept: Kept, revision: int) -> Iterator[Write]:
        for name, subscription in self._subscriptions.get(key, {}).items():
            before = None if key in self._reset else self._view.subscriptions.get(key, {}).get(name)
            if subscription is None:
                fields = {"user": key.user, "client": key.client_id, "generation": kept.generation, "filter": name}
                marks = {"gone": 1, "gone_at": self._view.now}
                yield Write("subscriptions", "set", subscription_id(key, name), {**fields, **marks}, revision)
            elif subscription != before:
                fields = subscription_document(key, subscription, kept.generation)
                yield Write("subscriptions", "set", subscription_id(key, name), fields, revision)

    def fill(self) -> None:
        """Fill in the results."""
        for session, head, offset, created, overtaken in self._opened:
            session.head, session.offset, session.created, session.overtaken = head, offset, created, overtaken
        for op, sinces, seqs in self._subscribed:
            for subscription, since in zip(op.subscriptions, sinces, strict=True):
                subscription.since = since
            op.retained_seqs = seqs


def _refuse_large_will(will: bytes | None) -> None:
    if will is not None and len(will) > MAX_WILL:
        raise MessageRefused(f"will of {len(will)} bytes: mongodb keeps at most {MAX_WILL}")


def _superseded(key: DeviceKey, epoch: int, latest: int) -> Superseded:
    return Superseded(f"device {key.client_id!r} of {key.user!r} is at epoch {latest}, this came late with {epoch}")


def draft(group: Sequence[Operation], view: View) -> tuple[dict[DeviceKey, Kept | None], list[Change]]:
    """The devices as the group will leave them, before its heads are known, and what the other nodes are to be told first."""
    sessions = Sessions(view, lambda *entry: 0, lambda user: 0, ())
    apply_to = sessions.apply()
    additions: list[Change] = []
    for op in group:
        if op.error is not None:
            continue
        if isinstance(op, Announce):
            additions += rules.announced(op.changes).first
        elif (apply := apply_to.get(type(op))) is not None:
            with suppress(MessageRefused, Superseded):
                apply(op)
    return sessions.devices, sessions.changes().first + additions


def corrections(additions: Sequence[Change], view: View) -> list[Change]:
    """Who has the devices that a group has told to have, and lost to another node meanwhile."""
    found = []
    for change in additions:
        kept = view.devices.get(DeviceKey(change.user, change.client_id))
        if change.kind == HELD and change.epoch and kept is not None and kept.device.node != change.node:
            found.append(change._replace(epoch=kept.device.epoch, node=kept.device.node))
    return found
