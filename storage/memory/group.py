"""A group's commit over a `MemoryDatabase`, in the steps in which a real database makes it (`storage.mongo.commit`):

1. who is to get more is told the routes; 2. the store, and retained messages; 3. who has subscribed to those meanwhile;
4. the inboxes, one half and then the other; 5. devices and the rest, and before and after it that settings change; 6. who is to
get less is told the routes.

Between two of them other nodes are at work, and the node may freeze or die. What it had sent takes effect late, also where it
was marked dead meanwhile (`MemoryDatabase.lands`). A step with nothing to do is none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

from storage import rules
from storage.cluster import HELD, Change, Node
from storage.errors import Superseded
from storage.memory.database import MemoryDatabase
from storage.memory.shared import Half
from storage.memory.shared_inboxes import Gate
from storage.records import (
    Announce,
    Append,
    DeviceKey,
    DropRow,
    DropSetting,
    OpenSession,
    Operation,
    PutRow,
    SaveSetting,
    Subscribe,
)

Rematch = Callable[[Sequence[Append]], Awaitable[None]]


class GroupCommit:
    """A group under way. What fails is made again from the step on that it was at: see `storage.interface.Committer`."""

    def __init__(self, database: MemoryDatabase, node: Node, group: Sequence[Operation]) -> None:
        self.group = group
        self._database = database
        self._storage = database.storage
        self._node = node
        self._additions: list[Change] = []
        self._last: list[Change] = []
        self._opened: set[DeviceKey] = set()
        self._appends: list[tuple[Append, Half]] = []
        """Those that this group has stored, and not found there."""
        self._heads: dict[int, int] = {}
        """Where inboxes ended at an operation's place in the group, by its place."""
        self._mark = 0
        self._steps = self._make_steps()
        self._step: tuple[str, Callable[[], None]] | None = None
        self.settled = False
        """All of it is done."""

    async def run(self, gate: Gate, rematch: Rematch | None) -> None:
        """To the end. Raises as `Committer.commit` does."""
        first = self._step is None
        while True:
            if self._step is None:
                self._step = next(self._steps, None)
            if self._step is None:
                self.settled = True
                self._database.alive(self._node.token)
                return
            name, effect = self._step
            self._database.alive(self._node.token)
            if not first:
                await gate.before(f"commit {name}")
            first = False
            if name == "matches":
                await self._match_again(rematch)
            self._database.lands(self._node.token)
            self._storage.writer = self._node.token
            effect()
            self._step = None

    def _make_steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        group = self.group
        yield "routes", self._tell_first
        if any(isinstance(op, Append) for op in group):
            yield "store", self._store
        if any(append.retain for append, _ in self._appends):
            yield "matches", lambda: None
        entries = sum(len(append.recipients) for append, _ in self._appends)
        if entries or any(isinstance(op, OpenSession | Subscribe) for op in group):
            yield "inboxes", lambda: self._enter(entries - entries // 2)
            if entries > 1:
                yield "inboxes", lambda: self._enter(entries)
        settings = any(isinstance(op, SaveSetting | DropSetting) for op in group)
        if settings:
            yield "settings", self._begin_settings
        yield "devices", self._apply_rest
        if settings:
            yield "settings", self._end_settings
        if self._last:
            yield "routes", lambda: self._database.tell(self._node.token, self._last)

    # --- the steps -----------------------------------------------------------------------------------------------------

    def _tell_first(self) -> None:
        drafted = self._storage.drafted(self.group)
        self._opened = {key for key, after in drafted.items() if after is not None and after.node == self._node.token}
        for key, after in drafted.items():
            self._additions += rules.changes(key, self._storage.standing(key), after).first
        announced = [rules.announced(op.changes) for op in self.group if isinstance(op, Announce) and op.error is None]
        self._last = [change for changes in announced for change in changes.last]
        self._database.tell(
            self._node.token, [*self._additions, *(change for changes in announced for change in changes.first)]
        )

    def _store(self) -> None:
        self._storage.looked_up = frozenset(
            op.received[0] for op in self.group if isinstance(op, Append) and op.received is not None
        )
        for op in self.group:
            if isinstance(op, OpenSession) and op.device in self._opened:
                self._storage.opened.add(op.device)
            if isinstance(op, Append):
                self._storage.apply_one(op)
                half = self._storage.halves.get(op.message.id)
                if half is not None and half.message is op.message:
                    self._appends.append((op, half))
        halves = {id(append): half for append, half in self._appends}
        for op in self.group:
            if isinstance(op, PutRow | DropRow) and (of := halves.get(id(op.of))) is not None:
                of.rows.append(op)
        self._storage.opened.clear()

    async def _match_again(self, rematch: Rematch | None) -> None:
        retaining = [(append, half) for append, half in self._appends if append.retain]
        if rematch is not None:
            await rematch([append for append, _ in retaining])
        for append, half in retaining:
            half.recipients = list(append.recipients)

    def _enter(self, most: int) -> None:
        """Number the group, and make inbox entries: ``most`` of them, counted from the first."""
        left = most
        halves = {id(append): half for append, half in self._appends}
        for place, op in enumerate(self.group):
            half = halves.get(id(op))
            if half is not None:
                self._storage.enter(half, half.recipients[:left])
                left -= len(half.recipients)
                if left < 0:
                    return
            elif isinstance(op, OpenSession | Subscribe):
                self._heads.setdefault(place, self._storage.head_of(op.device.user))

    def _begin_settings(self) -> None:
        begun, ended = self._database.settings_mark
        self._mark = begun + 1
        self._database.settings_mark = (self._mark, ended)

    def _end_settings(self) -> None:
        self._database.settings_mark = (self._database.settings_mark[0], self._mark)

    def _apply_rest(self) -> None:
        storage = self._storage
        keys = {key: None for op in self.group if (key := getattr(op, "device", None)) is not None}
        before = {key: storage.standing(key) for key in keys}
        halves = {id(append): half for append, half in self._appends}
        finished = {id(append) for append, half in self._appends if half.message.id not in storage.halves}  # by another node
        for place, op in enumerate(self.group):
            if isinstance(op, PutRow | DropRow) and id(op.of) in finished:
                continue
            if not isinstance(op, Append):
                storage.apply_one(op, self._heads.get(place))
            elif (half := halves.get(id(op))) is not None:
                places = dict(half.entries)
                op.inbox_seqs = [places[user] for user in op.recipients]
                if half.received is not None and not storage.is_with(half.received[0], self._node.token):
                    half.received = None
                storage.received(half)
        storage.evict()
        self._last = [c for key in keys for c in rules.changes(key, before[key], storage.standing(key)).last] + self._last
        if any(isinstance(op, OpenSession) and isinstance(op.error, Superseded) for op in self.group):
            self._last += self._corrections()

    def _corrections(self) -> Iterator[Change]:
        """Who has the devices that were told to be here, and that another node has got meanwhile."""
        for change in self._additions:
            now = self._storage.standing(DeviceKey(change.user, change.client_id))
            if change.kind == HELD and change.epoch and now is not None and now.node != change.node:
                yield change._replace(epoch=now.epoch, node=now.node)
