"""The group commit of one writer among several: each step can be made again, by this writer or by who finishes its work.

1. Devices and subscriptions are looked up. Who is to get more is told the routes.
2. What must happen once is claimed.
3. The ends of the timelines are read, behind the routes: a message that is published once this group is acknowledged is due.
4. The store; 5. retained messages, and who has subscribed to them meanwhile; 6. the inboxes; 7. the rest, devices first.
8. Who is to get less is told the routes.

Of a small group that has nothing in between, 4 and 6 are one command where the server has one for both.

When something fails, the group is kept and goes on at its step. A key that is taken is this group's own, from an attempt whose
answer was lost, or another writer's: what is not written yet is then numbered behind it. Nothing is given up once a first write
was tried: a caller that comes with another group finds the earlier one finished first.

Over 300 lines: the steps of one commit, in their order.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from storage.cluster import Change, number_of
from storage.errors import MessageRefused, StorageUnavailable, Superseded
from storage.mongo.claims import claim, needs_claims
from storage.mongo.codec import device_id, pack_places
from storage.mongo.commands import Encoded, NotTaken, insert_in_turn
from storage.mongo.connection import DUPLICATE_KEY, storage_errors
from storage.mongo.documents import SETTINGS, timeline_key
from storage.mongo.encoding import encode_in_turn, encode_messages
from storage.mongo.inboxes import WORTH_PARTING, write_entries
from storage.mongo.intents import Adopted, announce
from storage.mongo.late import tell as tell_late
from storage.mongo.load import (
    Wanted,
    find_stored,
    inbox_heads,
    last_entries,
    load,
    load_again,
    load_devices,
    load_ends,
    look_behind,
    topic_heads,
)
from storage.mongo.plan import Plan
from storage.mongo.recalls import recall
from storage.mongo.rows import Saying, forget_told, load_rows, write_rows
from storage.mongo.sessions import corrections, draft
from storage.mongo.state import State, batches
from storage.mongo.sweep import sweep
from storage.mongo.turns import Turns, pack_turns, unpack_turns
from storage.mongo.view import Head, View, Write
from storage.mongo.writes import CHUNK, CHUNK_BYTES, insert, write_devices, write_state
from storage.records import Append, DeviceKey, OpenSession, Operation

_NEVER = {10334, 17280, 17419, 121}  # too large, key too long, would grow too large, the collection's validator says no
_STUCK = 40
_GUESSES_HOLD = 5.0
"""Seconds for which the end of a timeline is remembered at least, and twice that at most."""
_LONGEST_SLOT = 0.1
"""Seconds that an insert counts as having taken at most, where nodes take turns."""
_FROZE = 0.1
"""Of a lease: a group that takes longer until it is stored may have been held up with its node, whose devices others take."""
_SLOW = 10.0
"""Seconds after which a commit looks whether retention has been over what it wrote."""

Rematch = Callable[[Sequence[Append]], Awaitable[None]]


class Node(Protocol):
    """The writer: see `storage.cluster.Node`."""

    token: int

    @property
    def lease_seconds(self) -> float:
        """See `storage.cluster.Cluster`."""

    def next_version(self) -> int:
        """A version that no group of any node ever had; this node's rise."""

    async def confirm(self) -> None:
        """Return only while this node may write; raises `StorageUnavailable` or `FencedOut`."""


class _Run:
    """A group under way, and the step that it is at."""

    def __init__(self, group: Sequence[Operation]) -> None:
        self.group = group
        self.appends = [op for op in group if isinstance(op, Append)]
        self.others = [op for op in group if not isinstance(op, Append)] if len(self.appends) < len(group) else []
        self.saying = Saying(self.others)
        self.step = 0
        self.begun = False
        """Whether a first write was tried."""
        self.view = View(0)
        self.plan: Plan
        self.at = 0
        """How many documents of the store are written."""
        self.entries_at = 0
        """How many entries of the plan were written with them."""
        self.tried = False
        """Whether any was sent."""
        self.additions: list[Change] = []
        self.adopted: list[int] = []
        self.new: set[int] = set()
        """Messages that were not stored when the group was numbered first."""
        self.lowest: dict[str, int] = {}
        """Where the entries of those can be at the earliest, by inbox."""
        self.matched: dict[int, list[str]] | None = None
        """Whom the messages that it retains were due to, before others were asked."""
        self.rematched = False
        self.written_devices: set[str] = set()
        self.written: list[tuple[Plan, Sequence[int]]] = []
        """Entries that are written, by their places in a plan, until `note` is asked."""
        self.placed: dict[tuple[int, int], tuple[str, int]] = {}
        self.attempt = 0
        self.stuck = 0
        self.progress = False
        """Whether the last insert into the inboxes wrote anything."""
        self.since = self.looked = time.monotonic()
        """When the group began, and when it was last known who has its publishers' devices."""

    def note(self) -> None:
        """Put into the view what is written. Few groups need it: those that are planned again."""
        view = self.view
        if self.at:
            view.stored.update({op.message.id: Head(seq, time) for op, seq, time, *_ in self.plan.store[: self.at]})
        for plan, places in self.written:
            for place in places:
                (user, seq, *_), key = plan.sync[place], plan.sync_keys[place]
                view.entries[key] = seq
                self.placed[key] = (user, seq)
        self.written.clear()

    def plan_again(self) -> None:
        """Number the group, around what is written."""
        self.note()
        self.plan = Plan(self.group, self.view)
        self.at = self.entries_at = 0


class Writer:
    """Commits groups, one at a time."""

    def __init__(
        self, state: State, node: Node, append_routes: Callable[[Sequence[Change]], Awaitable[object]] | None = None
    ) -> None:
        self._state = state
        self._node = node
        self._append_routes = append_routes
        self.rematch: Rematch | None = None
        self._run: _Run | None = None
        self._aged = time.monotonic()
        self._slot = 0.01
        """Seconds that an insert into the inboxes takes."""
        self._steps = (
            self._look,
            self._claim,
            self._number,
            self._store,
            self._retain,
            self._sync,
            self._write_state,
            self._tell_last,
        )

    @property
    def settled(self) -> bool:
        """Whether nothing is kept to be tried again."""
        return self._run is None or not self._run.begun

    async def commit(self, group: Sequence[Operation]) -> None:
        """See `storage.interface.Committer`."""
        await self._node.confirm()
        if time.monotonic() - self._aged > _GUESSES_HOLD:
            self._state.topics.age()
            self._state.inboxes.age()
            self._state.contended.age()
            self._aged = time.monotonic()
            await sweep(self._state)
        run = self._run
        if run is not None and not _same(run.group, group):
            if run.begun:
                await self._finish(run)
            run = None
        if run is None:
            run = self._run = _Run(group)
        await self._finish(run)

    async def _finish(self, run: _Run) -> None:
        while run.step < len(self._steps):
            await self._steps[run.step](run)
            run.step += 1
        await self._node.confirm()
        if time.monotonic() - run.since > _SLOW and not await self._all_there(run):
            await self._finish(run)
            return
        self._done(run)

    def _done(self, run: _Run) -> None:
        state, plan = self._state, run.plan
        plan.fill()
        state.topics.update(plan.topics)
        state.inboxes.update(plan.inboxes)
        state.devices.forget(plan.sessions.devices)
        kept = {key: kept for key, kept in plan.sessions.devices.items() if kept and kept.device.node == state.token}
        state.devices.update(kept)
        last = max(plan.unstored_id, max(plan.mids, default=0))
        if state.number not in (None, number_of(last)):  # another node's: then each is looked at
            mine = (id for id in (plan.unstored_id, *plan.mids) if state.number == number_of(id))
            last = max(mine, default=0)
        state.last_id = max(state.last_id, last)
        state.clock = max(state.clock, plan.clock)
        self._run = None

    # --- what a group starts from ----------------------------------------------------------------------------------

    async def _look(self, run: _Run) -> None:
        state = self._state
        run.since = run.looked = time.monotonic()
        version = self._node.next_version()
        view = run.view = View(version, state.token, await state.now(), state.clock)
        await load(state, view, run.appends, run.others)
        view.drafted, run.additions = draft(run.others, view)
        if self._append_routes is not None and run.additions:
            run.begun = True
            await self._append_routes(run.additions)

    async def _claim(self, run: _Run) -> None:
        state, view = self._state, run.view
        last = state.last_id
        if repeats := {op.message.id for op in run.appends if op.message.id <= last and op.store and op.error is None}:
            await find_stored(state, view, run.group, repeats)
        if not needs_claims(run.appends):
            return
        run.begun = True
        await claim(state, view, run.appends, run.adopted)
        if run.adopted:
            run.saying.follow()
            await load_rows(state, view, run.others)
            await announce(state, (), _adopted(run))
            await find_stored(state, view, run.group, run.adopted)

    async def _number(self, run: _Run) -> None:
        await load_ends(self._state, run.view, run.appends, run.others)
        run.plan_again()
        run.new = run.plan.mids.difference(run.view.stored)
        run.lowest = {user: head + 1 for user, head in run.view.inboxes.items()}

    # --- the store -------------------------------------------------------------------------------------------------

    async def _store(self, run: _Run) -> None:
        run.stuck = run.attempt = 0
        if not run.tried and time.monotonic() - run.looked > _FROZE * self._node.lease_seconds:
            await self._look_at_publishers(run)
        while run.at < len(run.plan.store):
            await self._node.confirm()
            run.begun = run.tried = True
            written, code = await (self._store_and_sync(run) if self._in_turn(run) else self._store_some(run))
            run.at += written
            if run.at == len(run.plan.store):
                break  # what comes behind it is for `_sync`
            if code == DUPLICATE_KEY:
                await self._resolve_store(run, written)
            elif code in _NEVER:
                op = run.plan.store[run.at][0]
                op.error = MessageRefused(f"mongodb cannot store message {op.message.id} (code {code})")
                run.plan_again()
            elif code:
                raise StorageUnavailable(f"mongodb: inserting into store failed with code {code}")
        if late := [mid for mid in run.adopted if mid in run.new]:
            await tell_late(self._state, late)

    async def _store_some(self, run: _Run) -> tuple[int, int]:
        plan = run.plan
        some = encode_messages(plan.store[run.at : run.at + CHUNK], plan.view.version, plan.rows.told, CHUNK_BYTES)
        return await insert(self._state.collections.store, Encoded(*some))

    def _in_turn(self, run: _Run) -> bool:
        """Whether the inboxes come right behind the store: it is no large group, with nothing to do between the two."""
        state, plan = self._state, run.plan
        if not state.in_turn or run.at or not 0 < len(plan.sync) <= WORTH_PARTING:
            return False
        if len(plan.store) > CHUNK:
            return False
        contended = state.contended and any(state.contended.get(user) is not None for user in plan.inboxes)
        return not (plan.retained or run.adopted or contended)

    async def _store_and_sync(self, run: _Run) -> tuple[int, int]:
        """Store, and go on with the entries as far as their places are free. The rest is for `_sync`."""
        state, plan = self._state, run.plan
        c = state.collections
        inserts = Encoded(*encode_in_turn(plan.store, plan.sync, plan.view.version, plan.rows.told, CHUNK_BYTES))
        if not inserts.count:
            return await self._store_some(run)
        try:
            written, code = await insert_in_turn(state.admin, c.store, c.sync, inserts)
        except NotTaken:
            state.in_turn = False
            raise
        stored = min(written, len(plan.store))
        run.entries_at = written - stored
        run.written.append((plan, range(run.entries_at)))
        return stored, code

    async def _look_at_publishers(self, run: _Run) -> None:
        """Refuse what the clients of devices that are elsewhere by now have sent again there. Not once one was sent: that
        may have stored it, and is brought to its end."""
        run.looked = time.monotonic()
        keys = {DeviceKey(op.message.user, op.message.device) for op, *_ in run.plan.store if op.epoch}
        await load_devices(self._state, run.view, keys, fresh=True)
        run.plan_again()

    async def _resolve_store(self, run: _Run, written: int) -> None:
        plan, view = run.plan, run.view
        rest = plan.store[run.at :]
        run.note()
        await self._state.pause(run.attempt)
        run.attempt += 1
        heads = await topic_heads(self._state, {op.message.topic for op, *_ in rest}, fresh=True)
        moved = any(heads[topic].seq > view.topics[topic].seq for topic in heads)
        view.topics.update(heads)
        found = await find_stored(self._state, view, run.group, [op.message.id for op, *_ in rest])
        self._patience(run, bool(found) or moved or bool(written))
        run.plan_again()

    async def _retain(self, run: _Run) -> None:
        plan = run.plan
        if not plan.retained:
            return
        run.begun = True
        await write_state(self._state, list(plan.retained.values()), plan.view.version)
        if self.rematch is None or run.rematched:
            return
        retaining = [op for op in run.appends if op.retain and op.error is None and op.message.id in run.new]
        if run.matched is None:
            run.matched = {op.message.id: list(op.recipients) for op in retaining}
        await self.rematch(retaining)
        more = [op for op in retaining if list(op.recipients) != run.matched[op.message.id]]
        if more:
            run.note()
            await self._recipients_changed(run, more)
            run.plan_again()
        run.rematched = True

    async def _recipients_changed(self, run: _Run, ops: Sequence[Append]) -> None:
        heads = await inbox_heads(self._state, {user for op in ops for user in op.recipients}, fresh=True)
        run.view.inboxes.update(heads)
        for op in ops:
            due = [run.lowest.get(user, heads[user] + 1) for user in op.recipients]
            fields = {"recipients": list(op.recipients), "places": pack_places(due)}
            topic, seq = op.message.topic, run.view.stored[op.message.id].seq
            mine = {"_id": timeline_key(topic, seq), "topic": topic, "seq": seq, "mid": op.message.id}
            with storage_errors():
                await self._state.collections.store.update_one(mine, {"$set": fields})

    # --- the inboxes -----------------------------------------------------------------------------------------------

    async def _sync(self, run: _Run) -> None:
        """Inboxes to which others write as well come last, when it is this node's turn there."""
        contended = self._state.contended
        run.stuck = run.attempt = 0
        hot = {user for user in run.plan.inboxes if contended.get(user) is not None} if contended else set()
        busy = [place for place, (user, *_) in enumerate(run.plan.sync) if user in hot] if hot else []
        calm: Sequence[int] = range(run.entries_at, len(run.plan.sync))
        if hot:
            calm = [place for place in calm if run.plan.sync[place][0] not in hot]
        late = await self._write_entries(run, calm)
        while rest := sorted(busy + late):
            await self._await_turn(run, rest, len(late))
            busy, late = [], await self._write_entries(run, range(len(run.plan.sync)))

    async def _write_entries(self, run: _Run, places: Sequence[int]) -> list[int]:
        """Write the entries of the plan at ``places``; the places of those that were too late."""
        plan, state = run.plan, self._state
        if not places:
            return []
        await self._node.confirm()
        run.begun = True
        began = time.monotonic()
        entries = plan.sync if len(places) == len(plan.sync) else [plan.sync[place] for place in places]
        done = await write_entries(state.collections.sync, entries)
        written = places if len(done) == len(places) else [places[n] for n in sorted(done)]
        self._slot += (min(time.monotonic() - began, _LONGEST_SLOT) - self._slot) / 4
        run.written.append((plan, written))
        run.progress = bool(written)
        if state.contended:
            for user, seq in {plan.sync[place][0]: plan.sync[place][1] for place in written}.items():
                if (turns := state.contended.get(user)) is not None:
                    turns.saw(seq, state.number or 0, turns.order)
        return sorted(set(places).difference(written)) if len(written) < len(places) else []

    async def _await_turn(self, run: _Run, rest: Sequence[int], late: int) -> None:
        """Wait until it is this node's turn in the inboxes of the entries at ``rest``, and number them behind where those end.

        ``late``: so many have just found their places taken, perhaps by themselves, in an attempt whose answer was lost; or
        somebody takes this node for dead and has written them. So the ends are read before the entries are looked for: what
        anybody writes after that is in the way of the insert, and nothing else stands before it.
        """
        view, state = run.view, self._state
        wanted, lowest = _wanted(run, rest)
        turns = {user: state.contended.get(user) or Turns(state.number or 0) for user in wanted}
        for one in turns.values():
            one.begin()
        if late:
            run.attempt += 1
            chance = random.random()
            await asyncio.sleep(self._slot * max(one.pause(run.attempt, chance) for one in turns.values()))
        near = all(one.near for one in turns.values())
        while True:
            # Far from its turn it needs the end alone; near it, what has come since, and whether its entries are there.
            last = await (look_behind(state, view, wanted, lowest) if near else last_entries(state, wanted))
            moved = any(entry["seq"] > view.inboxes[user] for user, entry in last.items())
            for user, entry in last.items():
                view.inboxes[user] = entry["seq"]
                turns[user].saw(entry["seq"], number_of(entry["mid"]), unpack_turns(entry.get("turns", b"")))
            if late:
                self._patience(run, run.progress or moved)
            wait = max(one.wait() for one in turns.values())
            blind = near and late and not last  # what took the place is not to be seen: it may have been removed since
            if near and not wait and not blind:
                break
            near, late = all(one.near for one in turns.values()) and not blind, 0
            await asyncio.sleep(wait * self._slot)
        # What was looked through once is not looked through again.
        run.lowest.update({user: view.inboxes[user] + 1 for user in wanted})
        state.contended.update({user: one for user, one in turns.items() if not one.alone})
        state.contended.forget(user for user, one in turns.items() if one.alone)
        run.plan_again()
        for user, place in {user: place for place, (user, *_) in enumerate(run.plan.sync)}.items():
            if user in turns and not turns[user].alone:
                run.plan.sync[place] = (*run.plan.sync[place][:-1], pack_turns(turns[user].order))

    def _patience(self, run: _Run, progress: bool) -> None:
        """A key that is taken by what no majority has yet is not to be seen. That others have moved on is progress too."""
        run.stuck = 1 if progress else run.stuck + 1
        if run.stuck > _STUCK:
            raise StorageUnavailable("mongodb: a key is taken by an entry that no majority has")

    # --- devices, subscriptions, keys, registries --------------------------------------------------------------------

    async def _write_state(self, run: _Run) -> None:
        if run.plan.done:
            return
        state, version = self._state, run.view.version
        if self._append_routes is not None and (last := run.plan.changes().last):
            await announce(state, last, _adopted(run))
        while True:
            devices = [write for write in run.plan.sessions.writes() if write.id not in run.written_devices]
            if not devices:
                break
            await self._node.confirm()
            run.begun = True
            missed = await write_devices(state, devices, version)
            run.written_devices |= {write.id for write in devices} - missed
            if not missed:
                break
            await self._look_again(run, {key for key in run.plan.sessions.devices if device_id(key) in missed})
            await self._sync(run)
        await self._write_rows(run)
        await forget_told(state, run.saying.messages)
        for op in run.plan.recalling:
            await recall(state, op.message.topic, op.recalls, op.message.id, version)
        writes: list[Write] = [*run.plan.sessions.writes_behind(), *run.plan.writes()]
        settings = run.plan.participants.setting_writes()
        if writes or settings:
            await self._node.confirm()
            run.begun = True
        if settings:  # said before and after: who looks between the two looks again
            await write_state(state, [Write("meta", "set", SETTINGS, {"changing": version})], version)
        if writes or settings:
            await write_state(state, writes + settings, version)
        if settings:
            await write_state(state, [Write("meta", "set", SETTINGS, {"changed": version})], version)

    async def _write_rows(self, run: _Run) -> None:
        for attempt in range(_STUCK):
            writes = run.plan.rows.writes()
            if not writes:
                return
            await self._node.confirm()
            run.begun = True
            if await write_rows(self._state, run.view, writes):
                return
            await self._state.pause(attempt)
            run.plan_again()
        raise StorageUnavailable("mongodb: a row changes hands again and again")

    async def _look_again(self, run: _Run, missed: set[DeviceKey]) -> None:
        """Somebody else has written these devices since they were read."""
        self._state.devices.forget(missed)
        await load_again(self._state, run.view, missed)
        run.plan_again()

    async def _tell_last(self, run: _Run) -> None:
        if self._append_routes is None or run.plan.done:
            return
        lost = any(isinstance(op, OpenSession) and isinstance(op.error, Superseded) for op in run.others)
        changes = run.plan.changes().last + (corrections(run.additions, run.view) if lost else [])
        if changes:
            await self._append_routes(changes)

    async def _all_there(self, run: _Run) -> bool:
        """Whether no entry was written below what retention has removed meanwhile; those that were are to be written again."""
        run.note()
        users = {user for user, _ in run.placed.values()}
        floors: dict[str, int] = {}
        for batch in batches(users, CHUNK):
            with storage_errors():
                found = await self._state.collections.users.find({"_id": {"$in": batch}}).to_list(None)
            floors.update({document["_id"]: document["floor"] for document in found})
        run.since = time.monotonic()
        lost = [key for key, (user, seq) in run.placed.items() if seq <= floors.get(user, 0)]
        if not lost:
            return True
        for key in lost:
            run.view.entries.pop(key, None)
        run.view.inboxes.update(await inbox_heads(self._state, {run.placed[key][0] for key in lost}, fresh=True))
        run.plan_again()
        run.step = self._steps.index(self._sync)
        return False


def _wanted(run: _Run, places: Sequence[int]) -> tuple[Wanted, dict[str, int]]:
    """Entries of the plan, to be looked for, and by inbox from where on."""
    wanted: Wanted = {}
    lowest: dict[str, int] = {}
    for place in places:
        user, seq, mid, _, _, target, _ = run.plan.sync[place]
        wanted.setdefault(user, {}).setdefault((mid, target), []).append(run.plan.sync_keys[place])
        lowest.setdefault(user, run.lowest.get(user, seq))
    return wanted, lowest


def _adopted(run: _Run) -> list[Adopted]:
    """The messages that have another node's id, in the order of the group."""
    found: list[Adopted] = []
    before = 0
    for op in reversed(run.group):
        if isinstance(op, Append) and op.store and op.error is None:
            if op.message.id in run.adopted:
                found.append(Adopted(op.message.id, before))
            else:
                before = op.message.id
    return found[::-1]


def _same(one: Sequence[Operation], other: Iterable[Operation]) -> bool:
    ops = list(other)
    return len(one) == len(ops) and all(a is b for a, b in zip(one, ops, strict=True))
