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

    __slots__ = ("_with_properties", "appends", "operations")

    def __init__(self, operations: list[Operation], appends: Sequence[Append] = ()) -> None:
        self.operations = operations
        self.appends = appends
        self._with_properties: list[Append] | None = None

    # Of most messages a hook wants to know only that they are none of its own. So that is found out here, which is compiled.

    @property
    def with_properties(self) -> Sequence[Append]:
        """The messages that have properties, some of them refused."""
        found = self._with_properties
        if found is None:
            found = self._with_properties = [append for append in self.appends if append.message.properties]
        return found

    def below(self, prefix: str) -> Sequence[Append]:
        """The messages to topics that begin so, some of them refused."""
        found: list[Append] = []
        topic: str | None = None
        is_below = False
        for append in self.appends:
            if append.message.topic is not topic:  # else as the message before it
                topic = append.message.topic
                is_below = topic.startswith(prefix)
            if is_below:
                found.append(append)
        return found

    @property
    def stored(self) -> int:
        """How many of its messages are stored, once that is known."""
        count = 0
        for append in self.appends:
            if append.store and append.error is None:
                count += 1
        return count

    @property
    def added(self) -> Sequence[Operation]:
        """The operations that store no message."""
        return [operation for operation in self.operations if not isinstance(operation, Append)]
