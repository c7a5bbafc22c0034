"""The subscription trie: which subscribers a topic reaches. No I/O.

Rules it keeps:

- `+` matches one level, `#` its parent and everything below it [MQTT-4.7.1-2, MQTT-4.7.1-3].
- A filter that begins with a wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].
- The result for a topic is computed once and kept until a subscription that could change it comes or goes, so a publish
  costs one dictionary look-up however many filters there are. The cache is bounded by weight: 1 per topic and 1 per
  subscriber in its result.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from storage.records import Subscription


class Subscriber(Protocol):
    """What the trie needs to know of a subscriber. ``inbox`` is its timeline's key, or empty if it has none."""

    @property
    def inbox(self) -> str: ...


S = TypeVar("S", bound=Subscriber)


class Match(Generic[S]):
    """Who a topic reaches.

    ``recipients``: the inboxes that get an entry, each once; ``readers``, parallel to it: the subscribers of each of them.
    ``live``: the subscribers without an inbox. ``grants``: for each subscriber its subscriptions that match, in no order.
    """

    __slots__ = ("grants", "live", "readers", "recipients")

    def __init__(self, grants: dict[S, tuple[Subscription, ...]]) -> None:
        self.grants = grants
        readers: dict[str, list[S]] = {}
        for subscriber in grants:
            if subscriber.inbox:
                readers.setdefault(subscriber.inbox, []).append(subscriber)
        self.recipients: tuple[str, ...] = tuple(readers)
        self.readers: tuple[list[S], ...] = tuple(readers.values())
        self.live: tuple[S, ...] = tuple(s for s in grants if not s.inbox)

    def __bool__(self) -> bool:
        return bool(self.grants)


class _Node(Generic[S]):
    __slots__ = ("children", "subscriptions")

    def __init__(self) -> None:
        self.children: dict[str, _Node[S]] = {}
        self.subscriptions: dict[S, Subscription] = {}


class Trie(Generic[S]):
    """Subscriptions by filter, and the cache of matches by topic."""

    def __init__(self, cache_weight: int = 100_000) -> None:
        self._root: _Node[S] = _Node()
        self._cache: dict[str, Match[S]] = {}
        self._cache_weight = 0
        self._cache_limit = cache_weight
        self.count = 0
        """How many subscriptions there are."""

    def add(self, filter_: str, subscriber: S, subscription: Subscription) -> None:
        """Add the subscription, or replace the one that the subscriber has with this filter."""
        node = self._root
        for level in filter_.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        if subscriber not in node.subscriptions:
            self.count += 1
        node.subscriptions[subscriber] = subscription
        self._forget(filter_)

    def remove(self, filter_: str, subscriber: S) -> bool:
        """Remove the subscription; False where there is none. Branches left empty are removed too."""
        path = [self._root]
        levels = filter_.split("/")
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        if path[-1].subscriptions.pop(subscriber, None) is None:
            return False
        self.count -= 1
        for depth in range(len(levels), 0, -1):
            if path[depth].subscriptions or path[depth].children:
                break
            del path[depth - 1].children[levels[depth - 1]]
        self._forget(filter_)
        return True

    def match(self, topic: str) -> Match[S]:
        """Who gets a message of this topic name, which must be valid."""
        match = self._cache.get(topic)
        if match is None:
            match = self._cache[topic] = Match(self._walk(topic))
            self._cache_weight += 1 + len(match.grants)
            while self._cache_weight > self._cache_limit and len(self._cache) > 1:
                self._drop(next(iter(self._cache)))
        return match

    def _walk(self, topic: str) -> dict[S, tuple[Subscription, ...]]:
        levels = topic.split("/")
        found: list[_Node[S]] = []
        nodes = [self._root]
        for depth, level in enumerate(levels):
            wild = depth > 0 or not topic.startswith("$")
            following = []
            for node in nodes:
                children = node.children
                if wild:
                    if "#" in children:
                        found.append(children["#"])
                    if "+" in children:
                        following.append(children["+"])
                if level in children:
                    following.append(children[level])
            nodes = following
            if not nodes:
                break
        for node in nodes:
            found.append(node)
            if "#" in node.children:
                found.append(node.children["#"])
        grants: dict[S, tuple[Subscription, ...]] = {}
        for node in found:
            for subscriber, subscription in node.subscriptions.items():
                grants[subscriber] = (*grants.get(subscriber, ()), subscription)
        return grants

    def _forget(self, filter_: str) -> None:
        # A filter without wildcards changes one topic. One with them may change any: walking the trie again for each topic
        # as it comes is cheaper than testing all cached topics here.
        if "+" in filter_ or "#" in filter_:
            self._cache.clear()
            self._cache_weight = 0
        elif filter_ in self._cache:
            self._drop(filter_)

    def _drop(self, topic: str) -> None:
        self._cache_weight -= 1 + len(self._cache.pop(topic).grants)
