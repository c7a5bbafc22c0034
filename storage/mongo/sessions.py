"""What a group does to devices and their subscriptions. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from storage import rules
from storage.errors import MessageRefused
from storage.mongo.codec import Kept, device_document, device_id, subscription_document, subscription_id
from storage.mongo.documents import Raw
from storage.mongo.view import View, Write
from storage.records import (
    CloseSession,
    Device,
    DeviceKey,
    OpenSession,
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

    def __init__(self, view: View, entry: Callable[..., int], inboxes: dict[str, int], sync: Sequence[Raw]) -> None:
        self._view = view
        self._entry = entry
        self._inboxes = inboxes
        self._sync = sync
        self.devices: dict[DeviceKey, Kept | None] = {}
        """Those that the group touched, as they are after it; None for one that is gone."""
        self._reset: dict[DeviceKey, None] = {}
        self._received: set[DeviceKey] = set()
        self._subscriptions: dict[DeviceKey, dict[str, Subscription | None]] = {}
        self._opened: list[tuple[OpenSession, int, int, bool]] = []
        self._subscribed: list[tuple[Subscribe, list[int], list[int]]] = []

    def _device(self, key: DeviceKey) -> Kept | None:
        if key in self.devices:
            return self.devices[key]
        found = self._view.devices.get(key)
        kept = self.devices[key] = found.copy() if found else None
        return kept

    def _current(self, key: DeviceKey, epoch: int) -> Device | None:
        kept = self._device(key)
        return rules.current(kept.device if kept is not None else None, epoch)

    # --- operations ------------------------------------------------------------------------------------------------

    def received(self, key: DeviceKey, packet_id: int) -> None:
        """An inbound QoS 2 message was stored. The device is then written in any case: recovery goes by its version."""
        if (kept := self._device(key)) is not None:
            kept.device.received.add(packet_id)
            self._received.add(key)

    def release(self, op: Release) -> None:
        """See `storage.records.Release`."""
        if (kept := self._device(op.device)) is not None:
            kept.device.received.discard(op.packet_id)

    def progress(self, op: Progress) -> None:
        """See `storage.records.Progress`."""
        if (device := self._current(op.device, op.epoch)) is not None:
            rules.advance(device, op)

    def open(self, op: OpenSession) -> None:
        """See `storage.records.OpenSession`."""
        start = rules.Start.parse(op.start)
        _refuse_large_will(op.will)
        head = self._inboxes[op.device.user]
        kept = self._device(op.device)
        if kept is not None and rules.is_older(op.epoch, kept.device.epoch):
            self._opened.append((op, head, kept.device.offset, False))
            return
        created = kept is None or op.clean
        if kept is None or op.clean:
            offset = self._start(op.device.user, head, start)
            self._forget(op.device)
            kept = Kept(rules.new_device(op, offset), self._view.version)
            self.devices[op.device] = kept
        device = kept.device
        rules.begin(device, op)
        self._opened.append((op, head, device.offset, created))

    def _start(self, user: str, head: int, start: rules.Start) -> int:
        def before(time: int) -> int:
            if (stored := self._view.since.get((user, time))) is not None:
                return stored - 1
            fresh = (int(entry["seq"]) - 1 for entry in self._sync if entry["user"] == user and entry["time"] >= time)
            return next(fresh, head)

        return start.offset(head, lambda: self._view.floors[user], before)

    def close(self, op: CloseSession) -> None:
        """See `storage.records.CloseSession`."""
        _refuse_large_will(op.will)
        device = self._current(op.device, op.epoch)
        if device is None:
            return
        if op.delete:
            self._forget(op.device)
            self.devices[op.device] = None
            return
        rules.end(device, op)

    def _forget(self, key: DeviceKey) -> None:
        self._reset[key] = None
        self._subscriptions.pop(key, None)

    def subscribe(self, op: Subscribe) -> None:
        """See `storage.records.Subscribe`."""
        device = self._current(op.device, op.epoch)
        head = self._inboxes[op.device.user]
        sinces = []
        for new in op.subscriptions:
            old = self._subscription(op.device, new.filter) if device else None
            since = rules.since(new, old.since if old else None, head)
            sinces.append(since)
            if device:
                self._subscriptions.setdefault(op.device, {})[new.filter] = replace(new, since=since)
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
        return None if key in self._reset else self._view.subscriptions.get((key, name))

    def unsubscribe(self, op: Unsubscribe) -> None:
        """See `storage.records.Unsubscribe`."""
        if self._current(op.device, op.epoch) is not None:
            self._subscriptions.setdefault(op.device, {}).update(dict.fromkeys(op.filters))

    # --- what comes of it ------------------------------------------------------------------------------------------

    def writes(self) -> Iterator[Write]:
        """The writes, which may be made in any order."""
        for key, kept in self.devices.items():
            before = self._view.devices.get(key)
            if kept is None:
                if before is not None:
                    yield Write("devices", "remove", device_id(key), {})
            elif before is None or before.generation != kept.generation:
                yield Write("devices", "set", device_id(key), device_document(kept))
            else:
                old, new = device_document(before), device_document(kept)
                changed = {name: value for name, value in new.items() if value != old[name]}
                if changed or key in self._received:
                    yield Write("devices", "change", device_id(key), changed)
        for key in self._reset:
            if self._view.devices.get(key) is not None:
                yield Write("subscriptions", "sweep", "", {"user": {"$eq": key.user}, "client": {"$eq": key.client_id}})
        for key, subscriptions in self._subscriptions.items():
            for name, subscription in subscriptions.items():
                yield from self._subscription_write(key, name, subscription)

    def _subscription_write(self, key: DeviceKey, name: str, subscription: Subscription | None) -> Iterator[Write]:
        before = None if key in self._reset else self._view.subscriptions.get((key, name))
        kept = self.devices[key]
        if kept is None or subscription == before:
            return
        if subscription is not None:
            fields = subscription_document(key, subscription, kept.generation)
            yield Write("subscriptions", "set", subscription_id(key, name), fields)
        else:
            yield Write("subscriptions", "remove", subscription_id(key, name), {})

    def fill(self) -> None:
        """Fill in the results."""
        for session, head, offset, created in self._opened:
            session.head, session.offset, session.created = head, offset, created
        for op, sinces, seqs in self._subscribed:
            for subscription, since in zip(op.subscriptions, sinces, strict=True):
                subscription.since = since
            op.retained_seqs = seqs


def _refuse_large_will(will: bytes | None) -> None:
    if will is not None and len(will) > MAX_WILL:
        raise MessageRefused(f"will of {len(will)} bytes: mongodb keeps at most {MAX_WILL}")
