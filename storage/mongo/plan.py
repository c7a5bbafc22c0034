"""What a group writes, worked out from what the database holds. No I/O.

A commit is three phases: the store, the inboxes, the state. A `Plan` says for each what to write, and every write can be
done again: the keys are fixed, and a state write changes nothing where the same version, or a later one, was there before.
When a writer finds that a key is taken, the plan is made again from a view in which the conflict is known:

- ``stored`` and ``entries`` hold what this very group has already written: it keeps its sequence;
- the heads are as they are now, so that the rest is numbered behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bson import encode

from storage import rules
from storage.errors import MessageRefused
from storage.mongo.codec import once_document, once_key, once_of, retained_document, store_document
from storage.mongo.documents import Raw, timeline_key
from storage.mongo.participants import Participants
from storage.mongo.sessions import Sessions
from storage.mongo.view import NO_FLOOR, Head, View, Write
from storage.records import (
    Append,
    CloseSession,
    DropRetained,
    DropTokens,
    Join,
    MarkRead,
    Message,
    OpenSession,
    Operation,
    Progress,
    Release,
    SaveJob,
    SaveToken,
    Subscribe,
    Unsubscribe,
)

MAX_DOCUMENT = (16 << 20) - (16 << 10)
"""Bytes of the largest document that is written; MongoDB's limit less some room."""
_MAYBE_TOO_LARGE = 8 << 20


class Plan:
    """A group, numbered. Raises nothing: what cannot be applied has its ``error`` set and takes no sequence."""

    def __init__(self, group: Sequence[Operation], view: View) -> None:
        self.group = group
        self.view = view
        self.store: list[Raw] = []
        self.store_ops: list[Append] = []
        self.sync: list[Raw] = []
        self.sync_keys: list[tuple[int, int]] = []
        self.mids: set[int] = set()
        """Ids of the messages that this group stores."""
        self.topics = dict(view.topics)
        self.inboxes = dict(view.inboxes)
        self.last_id = 0
        self.unstored_id = 0
        self.clock = view.clock
        self._new_topics: dict[str, None] = {}
        self._new_users: dict[str, None] = {}
        self._retained: dict[str, Raw] = {}
        self._dropped: list[tuple[str, int]] = []
        self._once: dict[str, Raw] = {}
        self._index = 0
        self._appends: list[tuple[Append, int, int, list[int]]] = []
        self._originals: list[tuple[Append, tuple[int, int]]] = []
        self.sessions = Sessions(view, self._entry, self.inboxes, self.sync)
        self.participants = Participants(view, self.topics)
        apply: dict[type, Callable[[Any], None]] = {
            OpenSession: self.sessions.open,
            CloseSession: self.sessions.close,
            Subscribe: self.sessions.subscribe,
            Unsubscribe: self.sessions.unsubscribe,
            Progress: self.sessions.progress,
            Release: self.sessions.release,
            Join: self.participants.join,
            MarkRead: self.participants.mark_read,
            SaveToken: self.participants.save_token,
            DropTokens: self.participants.drop_tokens,
            SaveJob: self.participants.save_job,
            DropRetained: self._drop_retained,
        }
        for self._index, op in enumerate(group):
            if op.error is None:
                try:
                    if isinstance(op, Append):
                        self._append(op)
                    else:
                        apply[type(op)](op)
                except MessageRefused as error:
                    op.error = error

    # --- messages --------------------------------------------------------------------------------------------------

    def _append(self, op: Append) -> None:
        message = op.message
        rules.refuse_unstored(op)
        view = self.view
        seq, time = 0, message.time
        document: Raw | None = None
        pinned = view.stored.get(message.id)
        head = self.topics[message.topic] if op.store else Head(0, 0)
        if pinned is not None:
            seq, time = pinned
        elif op.store:
            seq, time = head.seq + 1, max(message.time, head.time)
        if _may_be_too_large(op):
            _refuse_too_large(op, view.version)
        finished = view.finished.get(message.id)
        known = finished is not None or message.id in self.mids or (op.idempotency_key and self._repeated(op))
        if op.received is not None:
            self.sessions.received(*op.received)
        if finished is not None:
            self._appends.append((op, finished.seq, finished.time, list(finished.entries)))
        if known:
            return
        if op.store:
            if pinned is None:
                document = store_document(op, seq, time, view.version)
                self.store.append(document)
                self.store_ops.append(op)
            self.mids.add(message.id)
            if seq == 1:
                self._new_topics[message.topic] = None
            if seq > head.seq:
                self.topics[message.topic] = Head(seq, time)
        elif op.retain:
            self.unstored_id = message.id
        self.last_id = max(self.last_id, message.id)
        self.clock = max(self.clock, time)
        size = len(message.payload)
        entries = [self._entry(k, user, message.id, size, time) for k, user in enumerate(op.recipients)]
        self._appends.append((op, seq, time, entries))
        if op.retain:
            self._retain(message, seq, time)
        if op.idempotency_key:
            self._remember(op, seq)

    def _entry(self, k: int, user: str, mid: int, size: int, time: int, target: str = "") -> int:
        """Number one inbox entry, the ``k``-th of the operation at hand, and have it written."""
        head = self.inboxes[user]
        key = (self._index, k)
        seq = self.view.entries.get(key, 0)
        if not seq:
            seq = head + 1
            document = {"_id": timeline_key(user, seq), "user": user, "seq": seq, "mid": mid, "size": size, "time": time}
            if target:
                document["target"] = target
            self.sync.append(document)
            self.sync_keys.append(key)
        if seq == 1:
            self._new_users[user] = None
        if seq > head:
            self.inboxes[user] = seq
        return seq

    def _retain(self, message: Message, seq: int, time: int) -> None:
        self._retained[message.topic] = retained_document(message, seq, time)

    def _drop_retained(self, op: DropRetained) -> None:
        self._dropped += op.messages
        self.unstored_id = max(self.unstored_id, *(message_id for _, message_id in op.messages))  # it may be nowhere else

    def _repeated(self, op: Append) -> bool:
        key = once_key(op.message.user, op.idempotency_key)
        found = self._once.get(key) or self.view.once.get(key)
        original = rules.repeated(op, once_of(found) if found else None)
        if original is None:
            return False
        self._originals.append((op, original))
        return True

    def _remember(self, op: Append, seq: int) -> None:
        self._once[once_key(op.message.user, op.idempotency_key)] = once_document(rules.used_now(op, seq))

    # --- the state phase and the results ---------------------------------------------------------------------------

    def writes(self) -> list[Write]:
        """The state phase. The writes may be made in any order, and again."""
        writes = [*self.sessions.writes(), *self.participants.writes()]
        writes += [Write("retained", "set", topic, document) for topic, document in self._retained.items()]
        writes += [Write("retained", "remove", topic, {"mid": message_id}) for topic, message_id in self._dropped]
        writes += [Write("idempotency", "set", key, document) for key, document in self._once.items()]
        writes += [Write("conversations", "register", topic, dict(NO_FLOOR)) for topic in self._new_topics]
        writes += [Write("users", "register", user, dict(NO_FLOOR)) for user in self._new_users]
        if self.unstored_id:
            writes.append(Write("meta", "raise", "heads", {"last_id": self.unstored_id}))
        return writes

    def cleared(self) -> list[str]:
        """Topics whose retained message was cleared."""
        return [topic for topic, document in self._retained.items() if document.get("gone")]

    def fill(self) -> None:
        """Fill in the results of every operation."""
        for op, seq, time, entries in self._appends:
            op.message.seq, op.message.time, op.inbox_seqs = seq, time, entries
        for op, original in self._originals:
            op.original = original
        self.sessions.fill()
        self.participants.fill()


def _may_be_too_large(op: Append) -> bool:
    message = op.message
    return len(message.payload) + len(message.properties) > _MAYBE_TOO_LARGE or (
        len(op.recipients) > 64 and sum(map(len, op.recipients)) > 1 << 20
    )


def _refuse_too_large(op: Append, version: int) -> None:
    size = len(encode(store_document(op, 1 << 40, op.message.time, version)))
    if size > MAX_DOCUMENT:
        raise MessageRefused(f"message of {size} bytes with its recipients: mongodb stores at most {MAX_DOCUMENT}")
