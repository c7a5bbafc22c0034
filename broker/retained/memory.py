"""Retained messages: the last one of each topic, and which of them match a filter. No I/O.

Who gets them is decided in `routing.subscriptions`.

Storage has them all. Memory has all of them while they fit a number of bytes, so that a SUBSCRIBE finds them at its exact
place in the order of messages (`Retained.whole`). Beyond that it has those that changed last, and a SUBSCRIBE brings along a
`Reading`: what storage had for its filters, read before its place. What memory has counts before what was read: nothing that
changed since the reading began leaves memory before the reading is closed. So no read holds anybody else up.

A message takes its topic's place once it is *decided*: its group is durable, neither a hook, an ACL nor storage refused it, no
hook took its ``retain``, and it was not stored before. Until then it is *expected*, and a SUBSCRIBE that would find it waits
for the next group.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from broker.packets import is_wildcard
from storage.records import Append, Message

_OVERHEAD = 1000
"""Bytes that a held message costs beside its payload and properties: 700 are measured, with a topic of 20 characters."""


class _Node:
    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.message: Message | None = None


class Topics:
    """One message per topic, found by filter: a trie of topics."""

    def __init__(self) -> None:
        self._root = _Node()

    def set(self, message: Message) -> None:
        """Give its topic this message."""
        node = self._root
        for level in message.topic.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
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
        for depth in range(len(levels), 0, -1):
            if path[depth].message is not None or path[depth].children:
                break
            del path[depth - 1].children[levels[depth - 1]]

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


def _below(node: _Node, hide_system: bool = False) -> Iterator[_Node]:
    """The node and all under it; the root's `$` topics are left out where a wildcard must not see them."""
    yield node
    stack = [n for name, n in node.children.items() if not (hide_system and name.startswith("$"))]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())


class Reading:
    """What storage has for the filters of one request. `Retained.open` begins it, `Retained.close` must follow."""

    __slots__ = ("found", "hidden", "start", "wanted")

    def __init__(self, start: int) -> None:
        self.start = start
        """The id of the last message that was decided before; what came later is in memory."""
        self.wanted: list[str] = []
        """Filters that are still to be read."""
        self.found: dict[str, list[Message]] = {}
        self.hidden: dict[str, int] = {}
        """By topic, the last sequence that whoever it is for is not to be given."""


class Retained:
    """The retained messages in memory, up to ``limit`` bytes, and those that may become so with the group under way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.whole = True
        """Whether all there are have always fitted. Once they have not, nothing brings that back."""
        self._topics = Topics()
        self._stored: OrderedDict[str, Message] = OrderedDict()
        """In the order in which they were decided, so by rising id behind those that were loaded. Where memory has not all, one
        without payload says that its topic has none."""
        self._unstored: dict[str, Message] = {}
        """What storage has not: id 0. It stays."""
        self._bytes = 0
        self._last = 0
        self._in_storage = 0
        self._readings: OrderedDict[Reading, None] = OrderedDict()
        """By rising start."""
        self.expected: list[Append] = []
        """What may be retained of the group under way."""
        self._open = Topics()

    @property
    def count(self) -> int:
        """How many topics have one; where memory has not all, as of the last time that storage's were counted."""
        stored = len(self._stored) if self.whole else self._in_storage
        return stored + sum(1 for message in self._unstored.values() if message.payload)

    def in_cluster(self) -> None:
        """Other nodes retain messages too: nothing that is in storage is to be had from here."""
        self.whole, self._limit = False, 0

    def counted(self, in_storage: int) -> None:
        """So many are in storage."""
        self._in_storage = in_storage

    def put(self, message: Message) -> None:
        """Replace the topic's retained message; an empty payload clears it [MQTT-3.3.1-6, MQTT-3.3.1-7]."""
        self._take_out(message.topic)
        self._last = max(self._last, message.id)
        if message.payload or not self.whole:
            self._topics.set(message)
            if message.id:
                self._stored[message.topic] = message
                self._bytes += _weight(message)
                self._shrink()
            else:
                self._unstored[message.topic] = message
        else:
            self._topics.clear(message.topic)

    def _take_out(self, topic: str) -> None:
        known = self._stored.pop(topic, None)
        if known is not None:
            self._bytes -= _weight(known)
        else:
            self._unstored.pop(topic, None)

    def _shrink(self) -> None:
        """Let go of what changed longest ago, as far as no reading began before that."""
        if self._bytes <= self._limit:
            return
        if self.whole:
            self.whole, self._in_storage = False, len(self._stored)
        oldest = next(iter(self._readings)).start if self._readings else self._last
        while self._bytes > self._limit and self._stored:
            topic, message = next(iter(self._stored.items()))
            if message.id > oldest:
                return
            del self._stored[topic]
            self._topics.clear(topic)
            self._bytes -= _weight(message)

    def get(self, topic: str) -> Message | None:
        """The topic's retained message, if memory has it."""
        message = self._stored.get(topic) or self._unstored.get(topic)
        return message if message is not None and message.payload else None

    def match(self, filter_: str, now: int, reading: Reading | None = None) -> list[Message]:
        """The retained messages that the filter matches and that have not expired at ``now`` (ms), oldest first.

        Of those in memory, and of those that the reading found; but for what is hidden from whom the reading is for.
        """
        found = self._topics.match(filter_)
        if reading is not None and (read := reading.found.get(filter_)):
            found = list({message.topic: message for some in (read, found) for message in some}.values())
            found.sort(key=lambda message: message.id)
        if reading is not None and (hidden := reading.hidden):
            found = [m for m in found if m.topic not in hidden or m.seq > hidden[m.topic]]
        return [m for m in found if m.payload and not m.expired(now)]

    def __iter__(self) -> Iterator[Message]:
        """Those in memory."""
        return (m for held in (list(self._stored.values()), list(self._unstored.values())) for m in held if m.payload)

    # --- readings ----------------------------------------------------------------------------------------------------

    def open(self, filters: Iterable[str]) -> Reading:
        """Begin a reading for these filters: ``wanted`` are those for which storage must be asked.

        None is while memory has all, which it then keeps until the reading is closed.
        """
        reading = Reading(0 if self.whole else self._last)
        for filter_ in filters:
            if self._elsewhere(filter_):
                reading.wanted.append(filter_)
            elif not self.whole and filter_ in self._stored:  # which may leave before the reading is looked at
                reading.found[filter_] = [self._stored[filter_]]
        self._readings[reading] = None
        return reading

    def elsewhere(self, filters: Iterable[str]) -> bool:
        """Whether storage has to be read for one of these filters."""
        return any(map(self._elsewhere, filters))

    def _elsewhere(self, filter_: str) -> bool:
        if self.whole:
            return False
        return is_wildcard(filter_) or not (filter_ in self._stored or filter_ in self._unstored)

    def close(self, reading: Reading) -> None:
        """Nobody will look at it again."""
        del self._readings[reading]
        self._shrink()

    # --- expiry ------------------------------------------------------------------------------------------------------

    def forget(self, topic: str, message_id: int) -> None:
        """The message has expired. A topic that has another one by now keeps it."""
        message = self._stored.get(topic)
        if message is None or message.id != message_id:
            return
        if self.whole:
            self._take_out(topic)
            self._topics.clear(topic)
        else:  # its place stays taken: a reading may have found an older one
            self._bytes -= _weight(message)
            self._stored[topic] = none = Message(message.id, topic, "", "", 0, 0, b"", True)
            self._bytes += _weight(none)
            self._topics.set(none)

    def unstored_expired(self, now: int) -> list[str]:
        """Topics of what is in no storage and has expired at ``now`` (ms)."""
        return [message.topic for message in self._unstored.values() if message.expired(now)]

    def forget_unstored(self, topic: str) -> None:
        """The same for such a one."""
        if self._unstored.pop(topic, None) is not None:
            self._topics.clear(topic)

    # --- the group under way -----------------------------------------------------------------------------------------

    def expect(self, append: Append) -> None:
        """A message to be retained is in the group that is being built."""
        self.expected.append(append)
        self._open.set(append.message)

    def undecided(self, filter_: str) -> bool:
        """Whether what the filter finds hangs on the group that is being built."""
        return bool(self.expected) and bool(self._open.match(filter_))

    def decide(self) -> list[Message]:
        """The group is durable: take those of its messages that were accepted; which they are, in order."""
        if not self.expected:
            return []
        retained = (a for a in self.expected if a.retain)
        accepted = [a.message for a in retained if a.error is None and a.original is None]
        for message in accepted:
            self.put(message)
        self.expected = []
        self._open = Topics()
        return accepted


def _weight(message: Message) -> int:
    return _OVERHEAD + len(message.payload) + len(message.properties)
