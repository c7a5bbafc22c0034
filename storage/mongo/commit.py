"""The group commit: the store, then the inboxes, then the state.

A group is planned once. When something fails on the way, the plan is kept, and the same group goes on where it stopped: every
write can be made again. A key that is taken is either this group's own, from an attempt whose answer was lost, or another
writer's: then what is not written yet is numbered behind it. Nothing is given up once a first write was tried: a caller that
comes with another group finds the earlier one finished first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pymongo import DeleteOne

from storage.errors import MessageRefused, StorageUnavailable
from storage.mongo.connection import DUPLICATE_KEY, storage_errors
from storage.mongo.documents import Raw
from storage.mongo.late import finish_late
from storage.mongo.lease import Lease
from storage.mongo.load import inbox_heads, load, places, stored_messages, topic_heads
from storage.mongo.plan import Plan
from storage.mongo.state import State
from storage.mongo.view import Head
from storage.mongo.writers import Writers
from storage.mongo.writes import CHUNK, bulk_write, insert, write_state
from storage.records import Operation

CHUNK_BYTES = 8 << 20
_NEVER = {10334, 17280, 17419, 121}  # too large, key too long, would grow too large, the collection's validator says no
_STUCK = 40
_SAVE_AFTER = 50_000
_CLEAR_AFTER = 256


@dataclass(slots=True)
class _Run:
    """A plan under way: the phase that it is in, and how many of that phase's documents are written."""

    plan: Plan
    phase: int = 0
    at: int = 0
    stuck: int = 0


class Writer:
    """Commits groups, one at a time."""

    def __init__(self, state: State, lease: Lease) -> None:
        self._state = state
        self._lease = lease
        self._others = Writers(state, lease.token) if state.shared else None
        self._run: _Run | None = None
        self._unsaved = 0
        self._cleared: dict[str, int] = {}

    async def commit(self, group: Sequence[Operation]) -> None:
        """See `storage.interface.Committer`."""
        await self._lease.confirm()
        await self._tidy()
        run = self._run
        if run is not None and not _same(run.plan.group, group):
            if self._state.plan is not None:
                await self._finish(run)
            run = None
        if run is None:
            version = self._lease.next_version()
            view = await load(self._state, group, version)
            if self._state.late.met:  # one of the topics ends with a message that came late
                await finish_late(self._state)
                view = await load(self._state, group, version)
            run = self._run = _Run(Plan(group, view))
        await self._finish(run)

    async def finish_late(self) -> None:
        """See `storage.mongo.late.finish_late`. A group that is kept to be tried again goes first."""
        await self._lease.confirm()
        if self._state.plan is None:
            await finish_late(self._state)

    async def _finish(self, run: _Run) -> None:
        if self._state.plan is None:
            await self._begin(run)
        while run.phase < 3:
            await (self._store, self._sync, self._write_state)[run.phase](run)
            run.phase, run.at, run.stuck = run.phase + 1, 0, 0
        await self._lease.confirm()
        self._done(run.plan)

    async def _begin(self, run: _Run) -> None:
        plan, state, lease = run.plan, self._state, self._lease
        lowest = min(plan.mids, default=state.last_id + 1)
        if lowest <= lease.done and not state.shared:
            lease.done = lowest - 1  # ids that do not rise: recovery must look at them all the same
            await lease.renew()
        state.before_topics, state.before_inboxes = dict(plan.view.topics), dict(plan.view.inboxes)
        if self._others is not None:
            await self._others.announce(plan)
        state.plan = plan

    def _done(self, plan: Plan) -> None:
        state = self._state
        plan.fill()
        state.topics.update(plan.topics)
        state.inboxes.update(plan.inboxes)
        devices = plan.sessions.devices
        state.devices.update({key: kept for key, kept in devices.items() if kept is not None})
        state.devices.forget(key for key, kept in devices.items() if kept is None)
        state.last_id = max(state.last_id, plan.last_id)
        state.clock = max(state.clock, plan.clock)
        state.plan = self._run = None
        self._lease.done = state.last_id
        self._unsaved += len(plan.group)
        self._cleared.update(dict.fromkeys(plan.cleared(), plan.view.version))

    async def _tidy(self) -> None:
        """Now and then: save how far everything is done, so that recovery stays short, and drop the marks of cleared topics."""
        if self._state.shared or self._state.plan is not None:
            return
        if self._unsaved >= _SAVE_AFTER or len(self._cleared) >= _CLEAR_AFTER:
            await self._lease.renew()
            self._unsaved = 0
        if len(self._cleared) >= _CLEAR_AFTER:
            marks = [DeleteOne({"_id": t, "gone": 1, "v": {"$lte": v}}) for t, v in self._cleared.items()]
            await bulk_write(self._state.collections.retained, marks)
            self._cleared.clear()

    # --- phase 1: the store ----------------------------------------------------------------------------------------

    async def _store(self, run: _Run) -> None:
        while run.at < len(run.plan.store):
            await self._lease.confirm()
            chunk = _chunk(run.plan.store, run.at)
            written, code = await insert(self._state.collections.store, chunk)
            run.at += written
            if code == DUPLICATE_KEY:
                await self._resolve_store(run, written)
            elif code in _NEVER:
                op = run.plan.store_ops[run.at]
                op.error = MessageRefused(f"mongodb cannot store message {op.message.id} (code {code})")
                self._again(run)
            elif code:
                raise StorageUnavailable(f"mongodb: inserting into store failed with code {code}")

    async def _resolve_store(self, run: _Run, progress: int) -> None:
        plan = run.plan
        rest = plan.store[run.at :]
        own = await stored_messages(self._state, (document["mid"] for document in rest))
        if own:
            plan.view.stored.update(own)
        else:
            plan.view.topics.update(await topic_heads(self._state, {document["topic"] for document in rest}, fresh=True))
            if self._state.late.met:
                users = await finish_late(self._state) & plan.view.inboxes.keys()
                plan.view.inboxes.update(await inbox_heads(self._state, users, fresh=True))
        await self._patience(run, progress + len(own))
        self._again(run)

    # --- phase 2: the inboxes --------------------------------------------------------------------------------------

    async def _sync(self, run: _Run) -> None:
        if self._others is not None:
            await self._others.finish_earlier(run.plan)
        while run.at < len(run.plan.sync):
            await self._lease.confirm()
            chunk = _chunk(run.plan.sync, run.at)
            written, code = await insert(self._state.collections.sync, chunk)
            run.at += written
            if code == DUPLICATE_KEY:
                await self._resolve_sync(run, written)
            elif code:
                raise StorageUnavailable(f"mongodb: inserting into sync failed with code {code}")

    async def _resolve_sync(self, run: _Run, progress: int) -> None:
        plan = run.plan
        rest = plan.sync[run.at : run.at + CHUNK]
        with storage_errors():
            cursor = self._state.collections.sync.find({"_id": {"$in": [document["_id"] for document in rest]}})
            taken = {document["_id"]: document for document in await cursor.to_list(None)}
        foreign = False
        for key, document in zip(plan.sync_keys[run.at :], rest, strict=False):
            found = taken.get(document["_id"])
            if found is not None and all(found.get(name) == document.get(name) for name in ("mid", "target")):
                plan.view.entries[key] = document["seq"]
                progress += 1
            elif found is not None:
                foreign = True
        if foreign:
            users = {document["user"] for document in plan.sync[run.at :]}
            plan.view.inboxes.update(await inbox_heads(self._state, users, fresh=True))
            await self._take_over(run, users)
        await self._patience(run, progress)
        self._again(run)

    async def _take_over(self, run: _Run, users: set[str]) -> None:
        """Another writer may have finished some of this group's messages: those entries are the ones."""
        if self._others is None:
            return
        plan = run.plan
        mids = {document["mid"] for document in plan.sync[run.at :]}
        before = self._state.before_inboxes
        given = {user: await places(self._state, user, mids, before[user]) for user in users}
        for key, document in zip(plan.sync_keys[run.at :], plan.sync[run.at :], strict=True):
            if "target" not in document and (seq := given[document["user"]].get(document["mid"])):
                plan.view.entries[key] = seq

    async def _patience(self, run: _Run, progress: int) -> None:
        """A key that is taken by what no majority has yet is not to be seen: wait a little, for a while."""
        if progress:
            run.stuck = 0
            return
        run.stuck += 1
        if run.stuck > _STUCK:
            raise StorageUnavailable("mongodb: a key is taken by an entry that no majority has")
        if run.stuck > 2:
            await asyncio.sleep(min(0.005 * run.stuck, 0.1))

    def _again(self, run: _Run) -> None:
        """Number the group again, around what is written."""
        plan, view = run.plan, run.plan.view
        stored = plan.store if run.phase else plan.store[: run.at]
        view.stored.update({document["mid"]: Head(document["seq"], document["time"]) for document in stored})
        if run.phase:
            view.entries.update({key: d["seq"] for key, d in zip(plan.sync_keys[: run.at], plan.sync[: run.at], strict=True)})
        run.plan = self._state.plan = Plan(plan.group, view)
        run.at = 0

    # --- phase 3: devices, subscriptions, retained messages, keys, registries ---------------------------------------

    async def _write_state(self, run: _Run) -> None:
        await self._lease.confirm()
        await write_state(self._state, run.plan.writes(), run.plan.view.version)


def _chunk(documents: list[Raw], at: int) -> list[Raw]:
    size, end = 0, at
    for document in documents[at : at + CHUNK]:
        size += len(document.get("payload", b"")) + len(document.get("properties", b""))
        if size > CHUNK_BYTES and end > at:
            break
        end += 1
    return documents[at:end]


def _same(one: Sequence[Operation], other: Sequence[Operation]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
