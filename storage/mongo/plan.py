"""What a group writes, worked out from what the database holds. No I/O.

A `Plan` says what goes to the store, to the inboxes and to the rest, and every write can be done again. When a writer finds
that a key is taken, or that a device has changed, the plan is made again from a view in which that is known:

- ``stored`` and ``entries`` hold what is written already: it keeps its sequence;
- the heads are as they are now, so that the rest is numbered behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from storage import rules
from storage.cluster import number_of
from storage.errors import MessageRefused, Superseded
from storage.mongo.codec import once_document, once_key, once_of, retained_document
from storage.mongo.documents import Raw, last_id_key
from storage.mongo.encoding import Entry, Numbered, message_size
from storage.mongo.participants import Participants
from storage.mongo.rows import PlannedRows
from storage.mongo.sessions import Sessions
from storage.mongo.view import NO_FLOOR, Head, View, Write
from storage.records import (
    Announce,
    Append,
    DeviceKey,
    DropRetained,
    DropRow,
    DropSetting,
    DropTokens,
    Join,
    MarkRead,
    OpenSession,
    Operation,
    PutRow,
    SaveJob,
    SaveSetting,
    SaveToken,
    Subscribe,
)

_NOWHERE = [0, 0]
MAX_DOCUMENT = (16 << 20) - (16 << 10)
"""Bytes of the largest document that is written; MongoDB's limit less some room."""
_MAYBE_TOO_LARGE = 8 << 20
_FEW = 64
"""Recipients that do not make a document large."""


class Plan:
    """A group, numbered. Raises nothing: what cannot be applied has its ``error`` set and takes no sequence."""

    def __init__(self, group: Sequence[Operation], view: View) -> None:
        self.group = group
        self.view = view
        self.store: list[Numbered] = []
        self.sync: list[Entry] = []
        self.sync_keys: list[tuple[int, int]] = []
        self.mids: set[int] = set()
        """Ids of the messages that this group stores."""
        self.topics = dict(view.topics)
        self._ends: dict[str, list[int]] = {}
        """Sequence and time that the conversations of the group have reached; `topics` is told at its end."""
        self.inboxes = dict(view.inboxes)
        self.unstored_id = 0
        self.clock = view.clock
        self._new_topics: dict[str, None] = {}
        self._new_users: dict[str, None] = {}
        self._dropped: list[tuple[str, int]] = []
        self._once: dict[str, Raw] = {}
        self._index = 0
        self.retained: dict[str, Write] = {}
        """What the group retains, by topic."""
        self._appends: list[Numbered] = []
        self.recalling: list[Append] = []
        """Those that take the content out of others."""
        self._announced: list[Announce] = []
        self._pinned = view.entries
        self._written = self._entries_written()
        self._numbered: list[tuple[str, int, int]] = []
        others = [op for op in group if not isinstance(op, Append)]
        self._opens = any(isinstance(op, OpenSession) for op in others)
        """Whether anybody looks at what was numbered."""
        self._only_messages = not others
        self.sessions = Sessions(view, self._entry, self._head, self._numbered)
        self.participants = Participants(view, self._last)
        self.rows = PlannedRows(others, view)
        apply = self._apply() if others else {}
        for self._index, op in enumerate(group):
            if op.error is None:
                try:
                    if isinstance(op, Append):
                        self._append(op)
                    else:
                        apply[type(op)](op)
                except (MessageRefused, Superseded) as error:
                    op.error = error
        self.sessions.applied()
        self.participants.applied()
        self.topics.update({topic: Head(*end) for topic, end in self._ends.items()})

    def _apply(self) -> dict[type, Callable[[Any], None]]:
        """What is done with each kind of operation."""
        return {
            **self.sessions.apply(),
            Join: self.participants.join,
            MarkRead: self.participants.mark_read,
            SaveToken: self.participants.save_token,
            DropTokens: self.participants.drop_tokens,
            SaveJob: self.participants.save_job,
            SaveSetting: self.participants.save_setting,
            DropSetting: self.participants.drop_setting,
            PutRow: self.rows.apply,
            DropRow: self.rows.apply,
            DropRetained: self._drop_retained,
            Announce: self._announced.append,
        }

    # --- messages --------------------------------------------------------------------------------------------------

    def _append(self, op: Append) -> None:
        message, view = op.message, self.view
        mid, topic, time = message.id, message.topic, message.time
        pinned = view.stored.get(mid) if view.stored else None
        if op.store:
            end = self._ends.get(topic) or self._end(topic)
        else:
            rules.refuse_unstored(op)
            end = _NOWHERE
        seq = 0
        if pinned is not None:
            seq, time = pinned
        elif op.store:
            seq = end[0] + 1
            if end[1] > time:
                time = end[1]
        size, beside = len(message.payload), 0 if self._only_messages else self.rows.beside(mid)
        if size + len(message.properties) + beside > _MAYBE_TOO_LARGE or len(op.recipients) > _FEW:
            _refuse_too_large(op, view.version, beside)
        known = mid in self.mids or (op.idempotency_key and self._repeated(op))
        if op.received is not None:
            self.sessions.received(*op.received, stored=pinned is not None or mid in self.mids)
        elif op.epoch and view.devices and pinned is None and mid not in self.mids:
            self.sessions.published(DeviceKey(message.user, message.device), op.epoch)
        if known:
            return
        entries: list[int] = []
        for user in op.recipients:
            entries.append(self._entry(len(entries), user, mid, size, time))
        numbered = (op, seq, time, op.recipients, entries)
        self._appends.append(numbered)
        if op.store:
            if pinned is None:  # and so without an entry yet: those that it gets now come first where they can be
                self.store.append(numbered)
            self.mids.add(mid)
            if seq == 1:
                self._new_topics[topic] = None
            if seq > end[0]:
                end[0], end[1] = seq, time
        elif op.retain:
            self.unstored_id = mid
        if time > self.clock:
            self.clock = time
        if op.recalls:
            self.recalling.append(op)
        if op.retain:
            fields = retained_document(message, seq, time, view.version, view.now)
            self.retained[message.topic] = Write("retained", "set", message.topic, fields)
        if op.idempotency_key:
            self._remember(op, seq)

    def _end(self, topic: str) -> list[int]:
        end = self._ends.get(topic)
        if end is None:
            end = self._ends[topic] = list(self.topics[topic])
        return end

    def _entry(self, k: int, user: str, mid: int, size: int, time: int, target: str = "") -> int:
        """Number one inbox entry, the ``k``-th of the operation at hand, and have it written."""
        head = self.inboxes[user]
        key = (self._index, k)
        seq = self._pinned.get(key, -1) if self._pinned else -1
        if seq < 0:
            seq = head + 1
            self.sync.append((user, seq, mid, size, time, target, b""))
            self.sync_keys.append(key)
        if self._opens:
            self._numbered.append((user, seq, time))
        if seq == 1:
            self._new_users[user] = None
        if seq > head:
            self.inboxes[user] = seq
        return seq

    def _head(self, user: str) -> int:
        """Where an inbox ends at this place in the group: below what the group has written to it behind this place already."""
        behind = (seq - 1 for index, seq in self._written.get(user, ()) if index >= self._index)
        return min(behind, default=self.inboxes[user])

    def _last(self, topic: str) -> int:
        """The same of a conversation."""
        behind = (
            self.view.stored[op.message.id].seq - 1
            for op in self.group[self._index :]
            if isinstance(op, Append) and op.message.topic == topic and op.message.id in self.view.stored
        )
        return min(behind, default=self._end(topic)[0])

    def _entries_written(self) -> dict[str, list[tuple[int, int]]]:
        """Those of the group that are written already, by inbox: their places in the group, and sequences."""
        written: dict[str, list[tuple[int, int]]] = {}
        for (index, k), seq in self.view.entries.items():
            op = self.group[index]
            if seq and isinstance(op, Append):
                written.setdefault(op.recipients[k], []).append((index, seq))
            elif seq and isinstance(op, Subscribe):
                written.setdefault(op.device.user, []).append((index, seq))
        return written

    def _drop_retained(self, op: DropRetained) -> None:
        self._dropped += op.messages

    def _repeated(self, op: Append) -> bool:
        key = once_key(op.message.user, op.idempotency_key)
        found = self._once.get(key) or self.view.once.get(key)
        op.original = rules.repeated(op, once_of(found) if found else None)
        return op.original is not None

    def _remember(self, op: Append, seq: int) -> None:
        self._once[once_key(op.message.user, op.idempotency_key)] = once_document(rules.used_now(op, seq), done=True)

    # --- the state phase and the results ---------------------------------------------------------------------------

    def writes(self) -> list[Write]:
        """All but the devices, what follows them, and what is retained. They may be made in any order, and again."""
        writes = [*self.participants.writes()]
        now = self.view.now
        for topic, message_id in self._dropped:
            writes.append(Write("retained", "remove", topic, {"mid": message_id, "gone_at": now}))
        writes += [Write("idempotency", "set", key, document) for key, document in self._once.items()]
        writes += [Write("conversations", "register", topic, dict(NO_FLOOR)) for topic in self._new_topics]
        writes += [Write("users", "register", user, dict(NO_FLOOR)) for user in self._new_users]
        if self.unstored_id:
            key = last_id_key(number_of(self.unstored_id))
            writes.append(Write("meta", "raise", key, {"last_id": self.unstored_id}))
        return writes

    @property
    def done(self) -> bool:
        """Whether nothing is left to do once its messages are stored, and given to their recipients."""
        return self._only_messages and not (
            self.sessions.devices or self._once or self._new_topics or self._new_users or self.unstored_id or self.recalling
        )

    def changes(self) -> rules.Changes:
        """What the other nodes are to be told."""
        changes = self.sessions.changes()
        for op in self._announced:
            more = rules.announced(op.changes)
            changes.first.extend(more.first)
            changes.last.extend(more.last)
        return changes

    def fill(self) -> None:
        """Fill in the results of every operation."""
        for op, seq, time, _, entries in self._appends:
            op.message.seq, op.message.time, op.inbox_seqs = seq, time, entries
        self.sessions.fill()
        self.participants.fill()
        self.rows.fill()


def _refuse_too_large(op: Append, version: int, beside: int) -> None:
    message = op.message
    content = len(message.payload) + len(message.properties) + beside
    if content <= _MAYBE_TOO_LARGE and sum(map(len, op.recipients)) <= 1 << 20:
        return
    size = message_size((op, 1 << 40, message.time, op.recipients, [0] * len(op.recipients)), version) + beside
    if size > MAX_DOCUMENT:
        raise MessageRefused(f"message of {size} bytes with its recipients and rows: mongodb stores at most {MAX_DOCUMENT}")
