"""Retained messages: the last one of each topic, and which of them a new subscription gets. No I/O.

They are all held in memory, as the subscriptions are, so that a SUBSCRIBE finds them at its exact place in the order of
messages; storage keeps them too, and gives them back at start.

A message takes its topic's place once it is *decided*: its group is durable, and neither a hook, an ACL nor storage refused
it, nor was it stored before. Until then it is *expected*, and a SUBSCRIBE that would find it waits for the next group.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from storage.records import Append, Message


class _Node:
    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.message: Message | None = None


class Topics:
    """One message per topic, found by filter: a trie of topics."""

    def __init__(self) -> None:
        self._root = _Node()
        self.count = 0

    def set(self, message: Message) -> None:
        """Give its topic this message."""
        node = self._root
        for level in message.topic.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        if node.message is None:
            self.count += 1
        node.message = message

    def clear(self, topic: str) -> None:
        """Forget the topic's message, if it has one."""
        path = [self._root]
        levels = topic.split("/")
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return
            path.append(child)
        if path[-1].message is None:
            return
        path[-1].message = None
        self.count -= 1
        for depth in range(len(levels), 0, -1):
            if path[depth].message is not None or path[depth].children:
                break
            del path[depth - 1].children[levels[depth - 1]]

    def get(self, topic: str) -> Message | None:
        """The topic's message."""
        node: _Node | None = self._root
        for level in topic.split("/"):
            node = node.children.get(level) if node is not None else None
            if node is None:
                return None
        return node.message if node is not None else None

    def match(self, filter_: str) -> list[Message]:
        """The messages whose topics the filter matches, oldest first."""
        levels = filter_.split("/")
        nodes = [self._root]
        found: list[_Node] = []
        for depth, level in enumerate(levels):
            if level == "#":
                for node in nodes:
                    found.extend(_below(node, hide_system=depth == 0))
                nodes = []
                break
            following: list[_Node] = []
            for node in nodes:
                if level == "+":
                    following.extend(n for name, n in node.children.items() if depth or not name.startswith("$"))
                elif level in node.children:
                    following.append(node.children[level])
            nodes = following
        found.extend(nodes)
        return sorted((n.message for n in found if n.message is not None), key=lambda m: m.id)

    def __iter__(self) -> Iterator[Message]:
        return (n.message for n in _below(self._root) if n.message is not None)


def _below(node: _Node, hide_system: bool = False) -> Iterator[_Node]:
    """The node and all under it; the root's `$` topics are left out where a wildcard must not see them."""
    yield node
    stack = [n for name, n in node.children.items() if not (hide_system and name.startswith("$"))]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())


class Retained:
    """The retained messages, and those that may become so with the group under way."""

    def __init__(self) -> None:
        self._held = Topics()
        self._expected: list[Append] = []
        self._open = Topics()
        self._expiring: list[tuple[int, int, str]] = []
        """A heap of (when it expires, id, topic), also of some that were replaced since."""

    @property
    def count(self) -> int:
        """How many topics have one."""
        return self._held.count

    def put(self, message: Message) -> None:
        """Replace the topic's retained message; an empty payload clears it [MQTT-3.3.1-6, MQTT-3.3.1-7]."""
        if not message.payload:
            self._held.clear(message.topic)
            return
        self._held.set(message)
        if message.expires:
            if len(self._expiring) > 2 * self.count + 64:  # more than half were replaced: a topic that is published often
                self._expiring = [(m.expires, m.id, m.topic) for m in self._held if m.expires]
                heapify(self._expiring)
            else:
                heappush(self._expiring, (message.expires, message.id, message.topic))

    def get(self, topic: str) -> Message | None:
        """The topic's retained message."""
        return self._held.get(topic)

    def match(self, filter_: str, now: int) -> list[Message]:
        """The retained messages that the filter matches and that have not expired at ``now`` (ms), oldest first."""
        return [m for m in self._held.match(filter_) if not m.expires or m.expires > now]

    def __iter__(self) -> Iterator[Message]:
        return iter(self._held)

    # --- expiry ------------------------------------------------------------------------------------------------------

    def due(self, now: int) -> bool:
        """Whether there is something for `expire`."""
        return bool(self._expiring) and self._expiring[0][0] <= now

    def expire(self, now: int, limit: int) -> list[Message]:
        """Forget up to ``limit`` messages that have expired at ``now`` (ms); those that were forgotten."""
        gone: list[Message] = []
        while self.due(now) and len(gone) < limit:
            _, message_id, topic = heappop(self._expiring)
            message = self._held.get(topic)
            if message is not None and message.id == message_id and 0 < message.expires <= now:
                self._held.clear(topic)
                gone.append(message)
        return gone

    # --- the group under way -----------------------------------------------------------------------------------------

    def expect(self, append: Append) -> None:
        """A message to be retained is in the group that is being built."""
        self._expected.append(append)
        self._open.set(append.message)

    def undecided(self, filter_: str) -> bool:
        """Whether what the filter finds hangs on the group that is being built."""
        return bool(self._expected) and bool(self._open.match(filter_))

    def decide(self) -> list[Message]:
        """The group is durable: take those of its messages that were accepted; which they are, in order."""
        if not self._expected:
            return []
        accepted = [a.message for a in self._expected if a.error is None and a.original is None]
        for message in accepted:
            self.put(message)
        self._expected = []
        self._open = Topics()
        return accepted
