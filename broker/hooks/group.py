"""A group of messages, as its hooks see it. Apart from the hooks, as this is compiled (setup.py)."""

from __future__ import annotations

from collections.abc import Sequence

from storage.records import Append, Operation


class Group:
    """Everything that is committed in one durable write, in order.

    ``appends`` are the messages among ``operations``. A hook may change an append's ``store`` and ``recipients``, refuse it
    (set ``error`` to a `Refusal`), or add operations of its own at the end. What else is in a message is changed in
    `GroupPlugin.arrived`.
    """

    __slots__ = ("appends", "operations")

    def __init__(self, operations: list[Operation], appends: Sequence[Append] = ()) -> None:
        self.operations = operations
        self.appends = appends
