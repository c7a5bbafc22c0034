"""What the nodes of a `MemoryDatabase` share, with what only several writers need: see `storage.cluster`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from storage import rules
from storage.cluster import number_of
from storage.errors import Superseded
from storage.interface import TailPage, page_of_ids
from storage.memory.storage import MemoryStorage, copied
from storage.records import (
    Append,
    CloseSession,
    Device,
    DeviceKey,
    DropRow,
    Message,
    OpenSession,
    Operation,
    PutRow,
    Release,
    Subscribe,
    Unsubscribe,
)

if TYPE_CHECKING:
    from storage.memory.database import MemoryDatabase

KEPT_LEASES = 4
"""Routes and marks of ended sessions that are younger than this are never removed."""


@dataclass(slots=True)
class Half:
    """A message that is in the store, and what is to follow. ``entries``: those that it has, as (user, sequence); ``rows``:
    what is written for it."""

    message: Message
    recipients: list[str]
    received: tuple[DeviceKey, int] | None
    entries: list[tuple[str, int]] = field(default_factory=list)
    rows: list[PutRow | DropRow] = field(default_factory=list)


class SharedStorage(MemoryStorage):
    """See the module. A group's steps are `storage.memory.group`'s."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__()
        self._database = database
        self.writer = 0
        """The token of the node whose group is being applied."""
        self.opened: set[DeviceKey] = set()
        """The devices that the group opens before the message at hand."""
        self.looked_up: frozenset[DeviceKey] = frozenset()
        """The devices of which the group has a QoS 2 message: MongoDB is asked who has these, and no others."""
        self.halves: dict[int, Half] = {}
        """What is stored and not complete, by message id."""
        self._head_then: int | None = None
        """Where the inbox of the device at hand ended when its group was numbered."""
        self._last_ids: dict[int, int] = {}
        self._ended: OrderedDict[DeviceKey, tuple[int, int]] = OrderedDict()
        """Epochs of devices that are gone, and since when."""

    def standing(self, key: DeviceKey) -> rules.Standing | None:
        """A device as the others know it."""
        device = self._devices.get(key)
        if device is None:
            return None
        return rules.Standing(device.epoch, device.node, tuple(device.subscriptions))

    def last_id_of(self, number: int) -> int:
        """The highest id of any message that a node of this number has committed."""
        return self._last_ids.get(number, 0)

    def unfinished(self, number: int, after_id: int) -> list[Half]:
        """What a node of this number has stored with ids above ``after_id``, and not completed, in the order of its groups."""
        return [half for mid, half in sorted(self.halves.items()) if number_of(mid) == number and mid > after_id]

    def stored_since(self, number: int, after_id: int) -> tuple[dict[str, int], list[tuple[int, str]]]:
        """Who is due any stored message of a number with an id above ``after_id``, and where their inboxes end; and what those
        messages are: (id, topic)."""
        users: dict[str, int] = {}
        messages: list[tuple[int, str]] = []
        for stored in self._log:
            found = next((m for m in self.kept(stored.topic, stored.seq - 1)[:1] if m.seq == stored.seq), None)
            if found is not None and number_of(found.id) == number and found.id > after_id:
                users.update((user, self._head(user)) for user, _ in stored.entries)
                messages.append((found.id, found.topic))
        return users, messages

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        """See `storage.interface.Tail`. Of several writers, so their order is none of ids."""
        messages = sorted((m for m in self._messages.values() if m.id > after_id), key=lambda m: m.id)
        return rules.within(islice(messages, limit), max_bytes, lambda message: len(message.payload))

    async def tails(self) -> dict[int, int]:
        """See `storage.interface.Tails`."""
        return {node.number: self.last_id_of(node.number) for node in self._database.nodes.values()}

    async def read_tail_of(self, number: int, after: int, through: int, limit: int, max_bytes: int = 1 << 20) -> TailPage:
        """See `storage.interface.Tails`."""
        wanted = (m for m in self._messages.values() if number_of(m.id) == number and after < m.id <= through)
        page = islice(sorted(wanted, key=lambda m: m.id), limit)
        return page_of_ids(rules.within(page, max_bytes, lambda message: len(message.payload)), through)

    def take(self, key: DeviceKey, holder: int, end: Callable[[Device], CloseSession]) -> Device | None:
        """See `storage.cluster.Cluster.take`."""
        device = self._devices.get(key)
        if device is None or device.node != holder:
            return None
        rules.end(device, end(copied(device)))
        device.epoch, device.node = device.epoch + 1, 0
        return copied(device)

    # --- the steps of a group ----------------------------------------------------------------------------------------

    def drafted(self, group: Sequence[Operation]) -> dict[DeviceKey, rules.Standing | None]:
        """The devices as the group will leave them, unless another node is faster."""
        found: dict[DeviceKey, rules.Standing | None] = {}
        for op in group:
            if op.error is None and (key := getattr(op, "device", None)) is not None:
                found[key] = self._drafted(op, found[key] if key in found else self.standing(key))
        return found

    def _drafted(self, op: Operation, now: rules.Standing | None) -> rules.Standing | None:
        if isinstance(op, OpenSession):
            latest = now.epoch if now is not None else self._ended.get(op.device, (0, 0))[0]
            filters = now.filters if now is not None and not op.clean else ()
            if op.shared:
                return rules.Standing(max(op.epoch, latest + 1), now.node if now is not None else 0, filters)
            again = now is not None and (now.epoch, now.node) == (op.epoch, self.writer)
            return rules.Standing(op.epoch, self.writer, filters) if op.epoch > latest or again else now
        if not isinstance(op, CloseSession | Subscribe | Unsubscribe) or now is None:
            return now
        if rules.is_older(op.epoch, now.epoch) or (op.epoch == now.epoch and now.node not in (0, self.writer)):
            return now
        if isinstance(op, CloseSession):
            return None if op.delete else now._replace(node=0)
        if isinstance(op, Subscribe):
            return now._replace(filters=tuple(dict.fromkeys([*now.filters, *(new.filter for new in op.subscriptions)])))
        return now._replace(filters=tuple(name for name in now.filters if name not in op.filters))

    def apply_one(self, op: Operation, head: int | None = None) -> None:
        """``head``: where the inbox of the operation's device ended at its place in the group, where that was noted."""
        self._head_then = head
        self._apply_one(op)
        self._head_then = None

    def is_with(self, key: DeviceKey, token: int) -> bool:
        """Whether a node has a device, or nobody knows it."""
        device = self._devices.get(key)
        return device is None or device.node == token

    def head_of(self, user: str) -> int:
        """Where an inbox ends."""
        return super()._head(user)

    def evict(self) -> None:
        """Drop what is more than there is room for."""
        self._evict()

    def enter(self, half: Half, users: Iterable[str]) -> int:
        """Make the inbox entries of a message that are missing; how many that were."""
        has = {user for user, _ in half.entries}
        missing = [user for user in dict.fromkeys(users) if user not in has]
        half.entries += [(user, self._inbox(user).append((half.message.id, ""))) for user in missing]
        return len(missing)

    def complete(self, half: Half) -> int:
        """Do all that a stored message still lacks; how many inbox entries that were."""
        made = self.enter(half, half.recipients)
        if half.message.id in self.halves:
            for op in half.rows:
                self._apply_one(op)
        self.received(half)
        return made

    def received(self, half: Half) -> None:
        """The publisher's device has the packet id, and with that the message is complete."""
        if self.halves.pop(half.message.id, None) is None:
            return  # somebody else has done it
        if half.received is not None and (device := self._devices.get(half.received[0])) is not None:
            device.received.add(half.received[1])

    def _receive(self, op: Append) -> None:
        if not op.store or op.message.id in self._messages or op.original is not None:
            super()._receive(op)  # else it follows the message: see `received`

    def _store(self, op: Append) -> None:
        self.halves[op.message.id] = Half(op.message, list(op.recipients), op.received, self._keep(op))

    def _head(self, user: str) -> int:
        return super()._head(user) if self._head_then is None else self._head_then

    # --- guards ----------------------------------------------------------------------------------------------------

    def _append(self, op: Append) -> None:
        key = op.received[0] if op.received is not None else DeviceKey(op.message.user, op.message.device)
        if op.message.id not in self._messages and (op.received is not None or (op.epoch and key in self.looked_up)):
            self._refuse_foreign(key)
        super()._append(op)

    def _committed_id(self, message_id: int) -> None:
        super()._committed_id(message_id)
        number = number_of(message_id)
        self._last_ids[number] = max(message_id, self._last_ids.get(number, 0))

    def _release(self, op: Release) -> None:
        self._refuse_foreign(op.device)
        super()._release(op)

    def _refuse_foreign(self, key: DeviceKey) -> None:
        device = self._devices.get(key)
        if device is not None and device.node != self.writer and key not in self.opened:
            raise Superseded(f"device {key.client_id!r} of {key.user!r} has connected through another node")

    def _current(self, key: DeviceKey, epoch: int) -> Device | None:
        device = self._devices.get(key)
        if device is not None and rules.is_late(epoch, device, self.writer):
            raise _superseded(key, epoch, device.epoch)
        return device

    def _open_session(self, op: OpenSession) -> None:
        device = self._devices.get(op.device)
        latest = device.epoch if device is not None else self._ended.get(op.device, (0, 0))[0]
        if op.shared:
            super()._open_session(op)
            self._ended.pop(op.device, None)
            self._devices[op.device].epoch = max(op.epoch, latest + 1)
            return
        again = device is not None and (device.epoch, device.node) == (op.epoch, self.writer)
        if op.epoch <= latest and not again:
            raise _superseded(op.device, op.epoch, latest)
        if device is not None and not again and (op.clean or device.node not in (0, self.writer)):
            op.overtaken = device.will
        super()._open_session(op)
        self._ended.pop(op.device, None)
        self._devices[op.device].node = self.writer

    def _close_session(self, op: CloseSession) -> None:
        device = self._current(op.device, op.epoch)
        super()._close_session(op)
        if device is None:
            return
        device.node = 0
        if op.delete:
            now = self._database.now()
            self._ended[op.device] = (device.epoch, now)
            while next(iter(self._ended.values()))[1] < now - int(KEPT_LEASES * self._database.lease * 1000):
                self._ended.popitem(last=False)


def _superseded(key: DeviceKey, epoch: int, latest: int) -> Superseded:
    return Superseded(f"device {key.client_id!r} of {key.user!r} is at epoch {latest}, this came late with {epoch}")
