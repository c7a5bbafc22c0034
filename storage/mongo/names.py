"""What can be a key in MongoDB: text without U+0000, which separates the parts of one. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from storage.errors import MessageRefused
from storage.records import Append, DropRow, Join, MarkRead, OpenSession, Operation, PutRow, SaveSetting, SaveToken, Subscribe


def refuse_unstorable(ops: Sequence[Operation]) -> None:
    """Set the errors of operations that have a name which cannot be stored."""
    joined = "".join([name for op in ops for name in _names(op)])
    if joined.isascii() and "\0" not in joined:  # as most are: one look at all of them
        return
    for op in ops:
        for name in _names(op):
            if op.error is None and (not (name.isascii() or _is_text(name)) or "\0" in name):
                op.error = MessageRefused(f"name {name[:100]!r}: mongodb stores Unicode text without U+0000")


def _names(op: Operation) -> Sequence[str]:
    if isinstance(op, Append):
        message = op.message
        return message.topic, message.user, message.device, op.idempotency_key, *op.recipients
    if isinstance(op, OpenSession):
        return op.device
    if isinstance(op, Subscribe):
        return *op.device, *(subscription.filter for subscription in op.subscriptions)
    if isinstance(op, MarkRead):
        return op.user, op.topic
    if isinstance(op, Join):
        return [name for pair in op.pairs for name in pair]
    if isinstance(op, SaveToken):
        return op.token.id, op.token.digest, op.token.user, op.token.label
    if isinstance(op, SaveSetting):
        return op.kind, op.key
    if isinstance(op, PutRow | DropRow):
        return op.table, op.part, op.key
    return ()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
