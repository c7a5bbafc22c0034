"""Groups into transactions. Everything here runs on the one thread that writes.

A group is one transaction of few statements (see `batch`). Sequences are counted in memory (see `heads`); after
anything that was rolled back they are read again.

When a commit fails, its group is *in doubt*. The next commit first looks for it by its message ids: a transaction is whole or
absent, so one of them tells for all. What got through keeps the results that it was given; the rest is applied again.

Over 300 lines: each operation of a group is a few lines, within one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from storage.errors import MessageRefused, StorageError
from storage.messages import RECALLED_MARK, recalled_mark
from storage.packing import pack_inflight
from storage.records import (
    Announce,
    Append,
    CloseSession,
    DeviceKey,
    DropRetained,
    DropRow,
    DropSetting,
    DropTokens,
    Join,
    MarkRead,
    OpenSession,
    Operation,
    Progress,
    PutRow,
    Release,
    SaveJob,
    SaveSetting,
    SaveToken,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from storage.rules import Once, asked_at, refuse_unstored, repeated, used_now
from storage.sqlite import participation, rows
from storage.sqlite.batch import ALONE, Batch
from storage.sqlite.checkpoint import Checkpointer
from storage.sqlite.connection import MESSAGE_ERRORS, REOPEN, connect_writer, primary_code, translate
from storage.sqlite.free_space import FreeSpace
from storage.sqlite.heads import Head, conversation_heads, inbox_heads
from storage.sqlite.recipients import entries_of
from storage.sqlite.rows import RowBatch
from storage.sqlite.sessions import Sessions
from storage.sqlite.structure import StructureCheck
from storage.sqlite.unmoved import Unmoved

_ONCE = """
    SELECT json_group_array(json_array(i.user, i.key, hex(i.digest), i.message, i.seq, i.until))
    FROM json_each(?) AS asked CROSS JOIN idempotency AS i
    ON i.user = json_extract(asked.value, '$[0]') AND i.key = json_extract(asked.value, '$[1]')
"""
_BY_ID = "SELECT c.topic, m.seq, m.time FROM store AS m JOIN conversations AS c ON c.id = m.conversation WHERE m.id = ?"

_DROP_RETAINED = "DELETE FROM retained WHERE id IN (SELECT value FROM json_each(?))"
_RECALL = """
    UPDATE store SET payload = x'', properties = ? WHERE id IN (SELECT value FROM json_each(?))
    AND conversation = (SELECT id FROM conversations WHERE topic = ?)
    AND NOT (length(payload) = 0 AND ifnull(substr(properties, 1, ?) = ?, 0))
"""
_UNRETAIN = "DELETE FROM retained WHERE id IN (SELECT value FROM json_each(?)) AND topic = ?"
_LARGE: Final = 8192
"""Bytes of a payload whose copy costs more than what the driver does for a value that is `bytes` (`storage.sqlite.batch`)."""

ROW: Final = 256
"""Bytes counted for a message beside its payload, and for an inbox entry, with their places in the indexes."""


class _Doubt:
    """A group that may or may not have been committed, and the subscriptions of it that had asked for the head."""

    def __init__(self, group: Sequence[Operation], at_head: list[Subscription]) -> None:
        self.group = list(group)
        self.at_head = at_head


class GroupWriter:
    """Commits groups on its connection."""

    def __init__(self, path: Path, connection: sqlite3.Connection, space: FreeSpace, busy_timeout: float) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = _ready(connection)
        self._space = space
        self._unmoved = Unmoved(path)
        self._unmoved.opened()
        self._busy_timeout = busy_timeout
        self._conversations = conversation_heads()
        self._inboxes = inbox_heads()
        self._sessions = Sessions()
        self._batch = Batch()
        self._rows = RowBatch()
        self._topic_heads: dict[str, Head] = {}
        self._user_heads: dict[str, Head] = {}
        self._once: dict[tuple[str, str], Once] = {}
        self._at_head: list[Subscription] = []
        self._doubt: _Doubt | None = None
        self._landed: list[Operation] = []  # committed, though the caller was told otherwise
        self._highest = 0
        self.last_id = 0
        self.work = 0
        """Rows and statements written since it was last set to 0: with ``large``, how much there may be to checkpoint."""
        self.large = 0
        """Bytes of large values among them: those fill pages of their own."""
        self.wiped = False
        """Content was taken out since it was last set to False: it is still in the log, or in the file behind that."""
        self._kinds: dict[type, Callable[[Any], None]] = {
            OpenSession: self._open_session,
            CloseSession: self._close_session,
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            Progress: self._progress,
            Release: self._release,
            DropRetained: self._drop_retained,
            Join: lambda op: participation.join(self._begin(), op),
            MarkRead: self._mark_read,
            SaveToken: lambda op: participation.save_token(self._begin(), op),
            DropTokens: lambda op: participation.drop_tokens(self._begin(), op),
            SaveJob: lambda op: participation.save_job(self._begin(), op),
            SaveSetting: lambda op: participation.save_setting(self._begin(), op),
            DropSetting: lambda op: participation.drop_setting(self._begin(), op),
            PutRow: self._put_row,
            DropRow: self._drop_row,
            Announce: lambda op: None,
        }

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, opened again where an error had closed it."""
        if self._connection is None:
            self._unmoved.opened()
            self._connection = _ready(connect_writer(self._path, busy_timeout=self._busy_timeout))
        return self._connection

    def empty_log(self) -> bool:
        """Cut the log to nothing, so that what was taken out is not in it; False while somebody reads what was there before."""
        connection = self.connection
        connection.execute("PRAGMA busy_timeout=0").fetchall()  # commits do not wait for who reads
        try:
            ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(self._busy_timeout * 1000)}").fetchall()
        return not busy

    def probe(self) -> None:
        """See `storage.interface.Probed`."""
        try:
            self._check_files()
            self._space.check(ROW, self._inside)
        except sqlite3.Error as error:
            raise translate(error, str(self._path)) from error

    def _check_files(self) -> None:
        if self._connection is not None:  # else they are looked at when it is opened
            self._unmoved.check()

    def close(self) -> None:
        """Close the connection. May be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- one group -------------------------------------------------------------------------------------------------

    def serve(self, group: Sequence[Operation], check: StructureCheck | None, checkpointer: Checkpointer | None) -> None:
        """`commit`, unless the file was found to be damaged, and have the log moved when it is time."""
        if check is not None:
            check.refuse_damage()
        self.commit(group)
        if checkpointer is not None:
            self.pace(checkpointer)

    def pace(self, checkpointer: Checkpointer) -> None:
        """Have the log moved when it is time."""
        if self.wiped:
            self.wiped = False
            checkpointer.wipe()
        if checkpointer.note(self.work, self.large):
            self.work = self.large = 0

    def commit(self, group: Sequence[Operation]) -> None:
        """See `storage.interface.Committer.commit`."""
        try:
            self._check_files()
            group = self._settle(group)
            try:
                self.commit_whole(group)
            except MESSAGE_ERRORS:
                self._roll_back()
                self._forget_heads(self._at_head)
                self.commit_singly(group)
        except (sqlite3.Error, StorageError) as error:
            raise self._fail(error, group) from error
        self._landed = []
        self.last_id = max(self.last_id, self._highest)

    def commit_whole(self, group: Sequence[Operation]) -> None:
        """One transaction; raises one of `MESSAGE_ERRORS` where some operation cannot be applied."""
        self._prepare(group)
        for op in group:
            if op.error is None:
                try:
                    self._apply(op)
                except MessageRefused as error:
                    op.error = error
        self._flush(last=True)
        self._finish()

    def commit_singly(self, group: Sequence[Operation]) -> None:
        """One transaction in which every operation is applied, or refused, on its own. Slow, and rare."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        for op in group:
            if op.error is None:
                highest = self._highest
                connection.execute("SAVEPOINT alone")
                try:
                    self._prepare((op,))
                    if not (isinstance(op, Append) and op.store and self._is_known(op)):
                        self._apply(op)
                    self._flush()
                except (MessageRefused, *MESSAGE_ERRORS) as error:
                    connection.execute("ROLLBACK TO alone")
                    self._forget(highest)
                    _refuse(op, error)
                connection.execute("RELEASE alone")
        connection.execute("COMMIT")
        self._finish()

    def _apply(self, op: Operation) -> None:
        if isinstance(op, Append):
            self._append(op)
        else:
            self._kinds[type(op)](op)

    def abandoned(self, group: Sequence[Operation]) -> None:
        """Nobody waited for the outcome of the last group; it may come again."""
        if self._doubt is None:
            self._doubt = _Doubt(group, self._at_head)

    def _prepare(self, group: Sequence[Operation]) -> None:
        """Read what the appends of a group need to know, in one query per table."""
        connection = self.connection
        conversations, inboxes = self._conversations, self._inboxes
        keyed = []
        of_rows: list[PutRow | DropRow] = []
        size = 0
        for op in group:
            if isinstance(op, Append) and op.error is None:
                if op.refusal is None:  # else it is a repeat or nothing: no timeline is to begin for it
                    if op.store or op.retain:
                        size += ROW + len(op.message.payload) + ROW * len(op.recipients)
                    if op.store:
                        conversations.want(op.message.topic)
                        for user in op.recipients:
                            inboxes.want(user)
                if op.idempotency_key:
                    keyed.append((op.message.user, op.idempotency_key))
            elif isinstance(op, PutRow | DropRow) and op.error is None:
                of_rows.append(op)
                if isinstance(op, PutRow):
                    size += ROW + len(op.value)
        if size:
            self._space.check(size, self._inside)
        self._topic_heads = conversations.wanted(connection)
        self._user_heads = inboxes.wanted(connection)
        self._once = self._read_once(connection, keyed) if keyed else {}
        if of_rows:
            self._rows.load(connection, of_rows)

    def _inside(self) -> tuple[int, int]:
        """Bytes of the database, and those of them that are free, as of the last commit."""
        connection = self.connection
        ((size,),) = connection.execute("PRAGMA page_size").fetchall()
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        ((unused,),) = connection.execute("PRAGMA freelist_count").fetchall()
        return pages * size, unused * size

    def _read_once(self, connection: sqlite3.Connection, keyed: list[tuple[str, str]]) -> dict[tuple[str, str], Once]:
        ((found,),) = connection.execute(_ONCE, (json.dumps(keyed),)).fetchall()
        return {
            (user, key): Once(bytes.fromhex(digest), id, seq, until) for user, key, digest, id, seq, until in json.loads(found)
        }

    def _begin(self) -> sqlite3.Connection:
        connection = self.connection
        if not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        return connection

    def _flush(self, *, last: bool = False) -> None:
        """Write what is gathered; ``last`` commits."""
        batch, connection = self._batch, self.connection
        conversations, users = self._conversations.take_new(), self._inboxes.take_new()
        if not batch.is_empty() or conversations or users:
            more = conversations or users or not self._rows.is_empty() or not last or connection.in_transaction
            alone = None if more else batch.take_alone()
            if alone is not None:
                connection.execute(*alone)
            else:
                batch.write(self._begin(), conversations, users)
        self.work += batch.size + 2
        batch.clear()
        if not self._rows.is_empty():
            self._rows.write(self._begin())
        if last and connection.in_transaction:
            connection.execute("COMMIT")

    def _finish(self) -> None:
        self._conversations.finish()
        self._inboxes.finish()

    # --- when something went wrong ---------------------------------------------------------------------------------

    def _forget(self, highest: int = 0) -> None:
        """Nothing that was counted since the transaction began is true; but ``highest`` is the highest id in it."""
        self._batch = Batch()
        self._conversations.clear()
        self._inboxes.clear()
        self._sessions.clear()
        self._rows.clear()
        self._highest = highest

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._forget()

    def _fail(self, error: sqlite3.Error | StorageError, group: Sequence[Operation]) -> StorageError:
        """Leave nothing half done, remember the group, and say who must act."""
        try:
            self._roll_back()
        except sqlite3.Error:
            self.close()  # which rolls back
            self._forget()
        if isinstance(error, StorageError):
            return error  # nothing was tried; an earlier doubt stands
        if primary_code(error) in REOPEN:
            self.close()
        if self._doubt is None:
            self._doubt = _Doubt(group, self._at_head)
        return translate(error, str(self._path))

    def _settle(self, group: Sequence[Operation]) -> Sequence[Operation]:
        """What of ``group`` is still to be applied, now that it is known what became of the last one."""
        if (doubt := self._doubt) is not None:
            if self._has_landed(self.connection, doubt.group):
                self._landed += doubt.group
                ids = [op.message.id for op in doubt.group if isinstance(op, Append) and op.message.seq]
                self.last_id = max(self.last_id, *ids, 0)
            else:
                self._forget_heads(doubt.at_head)
            self._doubt = None
        self._at_head = []
        if self._landed:
            done = {id(op) for op in self._landed}
            return [op for op in group if id(op) not in done]
        return group

    def _forget_heads(self, subscriptions: list[Subscription]) -> None:
        for subscription in subscriptions:
            subscription.since = -1
        self._at_head = []

    def _has_landed(self, connection: sqlite3.Connection, group: Sequence[Operation]) -> bool:
        for op in group:
            if isinstance(op, Append) and op.message.seq and op.store and op.error is None:
                return bool(connection.execute("SELECT 1 FROM store WHERE id = ?", (op.message.id,)).fetchall())
            if isinstance(op, Subscribe) and op.retained_seqs:
                query = "SELECT message FROM sync WHERE user = (SELECT id FROM users WHERE key = ?) AND seq = ?"
                found = connection.execute(query, (op.device.user, op.retained_seqs[0])).fetchall()
                return found == [(op.retained[0].id,)]
            if (landed := rows.has_landed(connection, op)) is not None:
                return landed
        return False  # applying such a group again changes nothing

    def _put_row(self, op: PutRow) -> None:
        self._rows.put(op)
        self.wiped |= op.purges
        self.work += 1
        if len(op.value) >= _LARGE:
            self.large += len(op.value)

    def _drop_row(self, op: DropRow) -> None:
        self._rows.drop(op)

    def _is_known(self, op: Append) -> bool:
        """Whether the message is stored already, by its id; if so, fill in the results."""
        message, connection = op.message, self.connection
        found = connection.execute(_BY_ID, (message.id,)).fetchall()
        if not found:
            return False
        topic, message.seq, message.time = found[0]
        if topic != message.topic:
            raise MessageRefused(f"message id {message.id} is taken by a message of topic {topic!r}")
        op.inbox_seqs = entries_of(connection, message.id, op.recipients)
        if op.received is not None:
            self._receive(*op.received, True)
        return True

    # --- messages --------------------------------------------------------------------------------------------------

    def _append(self, op: Append) -> None:
        if not op.store:
            refuse_unstored(op)
        if op.idempotency_key and self._is_repeat(op):
            if op.received is not None:
                self._receive(*op.received, True)
            return
        if op.store:
            self._store(op)
        if op.received is not None:
            self._receive(*op.received, True)
        if op.retain or op.idempotency_key:
            self._keep_apart(op)
        if op.recalls:
            self._recall(op)

    def _store(self, op: Append) -> None:
        """The hot loop: plain lists and attributes, measured at 2 microseconds per message."""
        message = op.message
        head = self._topic_heads[message.topic]
        head.seq = message.seq = head.seq + 1
        if message.time < head.time:
            message.time = head.time
        else:
            head.time = message.time
        id = message.id
        if id > self._highest:
            self._highest = id
        batch, seq, time = self._batch, message.seq, message.time
        payload: bytes | bytearray = message.payload
        if len(payload) < _LARGE:
            payload = bytearray(payload)
        else:
            self.large += len(payload)
        if message.retain or message.expires or message.properties or not 0 <= message.qos <= 2:
            batch.messages += (
                id,
                head.id,
                seq,
                message.user,
                message.device,
                time,
                message.qos,
                1 if message.retain else 0,
                message.expires,
                bytearray(message.properties),
                payload,
            )
        else:
            rows = batch.plain[message.qos]
            rows += (id, head.id, seq, message.user, message.device, time, payload)
        recipients = op.recipients
        if not recipients:
            return
        heads, inboxes = self._user_heads, batch.inboxes
        places = []
        for name in recipients:
            user = heads[name]
            user.seq = place = user.seq + 1
            places.append(place)
            run = user.run
            if not run:
                inboxes.append(user)
            run.append(id)
        op.inbox_seqs = places

    def _keep_apart(self, op: Append) -> None:
        """The retained message and the idempotency key."""
        message, batch = op.message, self._batch
        if not op.store:
            batch.unstored_id = max(batch.unstored_id, message.id)
            self._highest = max(self._highest, message.id)
        if op.retain:
            batch.retained[message.topic] = _retained_row(op) if message.payload else None
            if len(message.payload) >= _LARGE:
                self.large += len(message.payload)
        if op.idempotency_key:
            key = (message.user, op.idempotency_key)
            once = self._once[key] = used_now(op, message.seq)
            batch.once += (*key, once.digest, once.message, once.seq, once.until)
            batch.now = max(batch.now, asked_at(op))

    def _recall(self, op: Append) -> None:
        """Take the content out of messages. What is freed is overwritten (`connect_writer`), and `wiped` asks for the rest."""
        self._flush()  # it may be of this group
        ids = json.dumps(list(op.recalls))
        connection = self._begin()
        connection.execute(_RECALL, (recalled_mark(op.message.id), ids, op.message.topic, len(RECALLED_MARK), RECALLED_MARK))
        connection.execute(_UNRETAIN, (ids, op.message.topic))
        self.work += len(op.recalls)
        self.wiped = True

    def _drop_retained(self, op: DropRetained) -> None:
        ids = [message_id for _, message_id in op.messages]
        self._begin().execute(_DROP_RETAINED, (json.dumps(ids),))
        self._batch.unstored_id = max(self._batch.unstored_id, *ids)  # their rows may have held the highest id

    def _is_repeat(self, op: Append) -> bool:
        op.original = repeated(op, self._once.get((op.message.user, op.idempotency_key)))
        return op.original is not None

    def _receive(self, key: DeviceKey, packet_id: int, kept: bool) -> None:
        number = self._sessions.find(self.connection, key).id
        if number:
            self._batch.received[number << 16 | packet_id] = kept

    def _release(self, op: Release) -> None:
        self._receive(op.device, op.packet_id, False)

    # --- sessions --------------------------------------------------------------------------------------------------

    def _session(self, *, reads_entries: bool = False) -> sqlite3.Connection:
        """The connection, in a transaction that has what came before in the group and concerns a session."""
        if self._batch.received or self._batch.progress or reads_entries:
            self._flush()
        return self._begin()

    def _open_session(self, op: OpenSession) -> None:
        connection = self._session(reads_entries=op.start.startswith("since"))
        self._sessions.open(connection, op, self._inboxes.peek(connection, op.device.user))

    def _close_session(self, op: CloseSession) -> None:
        self._sessions.close(self._session(), op)

    def _subscribe(self, op: Subscribe) -> None:
        connection = self._begin()
        user, target = op.device
        self._at_head += [subscription for subscription in op.subscriptions if subscription.since < 0]
        number = self._sessions.subscribe(connection, op, self._inboxes.peek(connection, user))
        if number and op.retained:
            head = self._inboxes.get(connection, user)
            self._batch.end_run(head)
            op.retained_seqs = list(range(head.seq + 1, head.seq + 1 + len(op.retained)))
            head.seq += len(op.retained)
            for seq, message in zip(op.retained_seqs, op.retained, strict=True):
                self._batch.targeted += (head.id, seq, message.id, target)

    def _unsubscribe(self, op: Unsubscribe) -> None:
        self._sessions.unsubscribe(self._begin(), op)

    def _mark_read(self, op: MarkRead) -> None:
        connection = self._begin()
        participation.mark(connection, op, self._conversations.peek(connection, op.topic))

    def _progress(self, op: Progress) -> None:
        number = self._sessions.current(self.connection, op.device, op.epoch)
        if number:
            self._batch.progress[number] = (op.offset, op.cursor, pack_inflight(op.inflight))


def _ready(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.executescript(ALONE)
    return connection


def _retained_row(op: Append) -> tuple[object, ...]:
    m = op.message
    return (m.id, m.topic, m.seq, m.user, m.device, m.time, m.qos, int(m.retain), m.expires, m.properties, m.payload)


def _refuse(op: Operation, error: Exception) -> None:
    if isinstance(op, Append):
        op.message.seq = 0
        op.inbox_seqs = ()
    op.error = error if isinstance(error, MessageRefused) else MessageRefused(f"cannot be stored: {error}")
