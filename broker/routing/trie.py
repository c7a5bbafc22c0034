"""Which subscribers a topic reaches: filters without wildcards by name, the others in a trie. No I/O.

Rules it keeps:

- `+` matches one level, `#` its parent and everything below it [MQTT-4.7.1-2, MQTT-4.7.1-3].
- A filter that begins with a wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].
- The result for a topic is computed once and kept until a subscription that could change it comes or goes, so a publish
  costs one dictionary look-up however many filters there are. The cache is bounded by weight: 1 per topic and 1 per
  subscriber in its result.
- A subscriber that nobody is connected to may be *set aside*: only its name is kept (`sessions.member_of`), as all that a
  publish needs of it. That changes no result that is kept, since those look up who is there in the places that they came from.
- Names are a set: who is set aside twice is there once, so that what other nodes tell may be told again.

Over 300 lines: one data structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, filterfalse
from typing import Generic, Protocol, TypeVar

from broker.sessions import DEVICE, is_group
from storage.records import Subscription


class Subscriber(Protocol):
    """What the trie needs to know of a subscriber. ``inbox`` is its timeline's key, or empty if it has none."""

    @property
    def inbox(self) -> str: ...


S = TypeVar("S", bound=Subscriber)


class Match(Generic[S]):
    """Who a topic reaches.

    ``recipients``: the inboxes that get an entry, each once. ``live``: the subscribers without an inbox. In a ``channel``, the
    one entry is for all ``users``, and ``recipients`` has the channel in place of them: nothing here grows with those of them
    who are set aside, so that one who comes or goes costs as much among 100,000 as among ten.
    """

    __slots__ = ("_places", "_readers", "_version", "channel", "live", "recipients")

    def __init__(self, places: list[_Place[S]], channel: str | None = None) -> None:
        self._places = places
        recipients: dict[str, None] = {}
        live: dict[S, None] = {}
        shared = False
        for place in places:
            for subscriber in place.subscriptions or ():
                inbox = subscriber.inbox
                if not inbox:
                    live[subscriber] = None
                elif channel is None or is_group(inbox):
                    recipients[inbox] = None
                else:
                    shared = True
            aside = place.aside
            if isinstance(aside, str):
                inbox = aside.partition(DEVICE)[0]
                if channel is None or is_group(inbox):
                    recipients[inbox] = None
                else:
                    shared = True
            elif aside is not None and channel is None:
                recipients.update(dict.fromkeys(aside))
            elif aside is not None:
                groups = place.groups or {}
                recipients.update(groups)
                shared = shared or len(aside) > len(groups)
        self.channel = ""
        if channel is not None and shared:
            recipients[channel] = None
            self.channel = channel
        self.recipients: tuple[str, ...] = tuple(recipients)
        self.live: tuple[S, ...] = tuple(live)
        self._readers: list[list[S]] = []
        self._version = -1

    @property
    def users(self) -> Iterator[str]:
        """Who has the channel's entry, some perhaps twice; nobody where it is no channel. To be gone through at once, before
        any subscription comes or goes: there may be very many."""
        found: list[Iterable[str]] = []
        for place in self._places if self.channel else ():
            found.append([one.inbox for one in place.subscriptions or () if one.inbox and not is_group(one.inbox)])
            aside = place.aside
            if isinstance(aside, str):
                found.append(() if is_group(aside) else (aside.partition(DEVICE)[0],))
            elif aside is not None:
                found.append(aside if place.groups is None else filterfalse(place.groups.__contains__, aside))
        return chain.from_iterable(found)

    def __bool__(self) -> bool:
        return bool(self.recipients or self.live)

    @property
    def weight(self) -> int:
        """What it counts for in the cache."""
        return 1 + len(self.recipients) + len(self.live)

    def granted(self, subscriber: S) -> tuple[Subscription, ...]:
        """The subscriber's subscriptions that match, in no order; none where it is set aside."""
        places = self._places
        if len(places) == 1:
            subscriptions = places[0].subscriptions
            return () if subscriptions is None else subscriptions.get(subscriber, ())
        found: tuple[Subscription, ...] = ()
        for place in places:
            if place.subscriptions is not None:
                found += place.subscriptions.get(subscriber, ())
        return found

    def readers(self) -> list[list[S]]:
        """Parallel to ``recipients``: the subscribers of each that are here. Gathered again where one came or went."""
        version = 0
        for place in self._places:
            version += place.version
        if version != self._version:
            found: dict[str, list[S]] = {inbox: [] for inbox in self.recipients}
            for subscriber in self.subscribers():
                inbox = subscriber.inbox
                if inbox in found:
                    found[inbox].append(subscriber)
                elif inbox and self.channel:
                    found[self.channel].append(subscriber)
            self._readers, self._version = list(found.values()), version
        return self._readers

    def subscribers(self) -> list[S]:
        """Every subscriber that is not set aside, each once."""
        return list(dict.fromkeys(subscriber for place in self._places for subscriber in place.subscriptions or ()))


class _Place(Generic[S]):
    """One filter. Both dictionaries are made when they are needed, as most filters are those of one device."""

    __slots__ = ("aside", "children", "groups", "subscriptions", "version")

    def __init__(self) -> None:
        self.children: dict[str, _Place[S]] | None = None
        self.subscriptions: dict[S, tuple[Subscription, ...]] | None = None
        self.aside: dict[str, str | set[str]] | str | None = None
        """Who is set aside, by inbox: the client id, empty for an anonymous user, or several; one alone by its name."""
        self.groups: dict[str, None] | None = None
        """Those inboxes of ``aside`` that are groups', where it is a dictionary."""
        self.version = 0
        """Rises whenever a subscriber comes or goes."""

    @property
    def empty(self) -> bool:
        """Nobody has this filter."""
        return self.subscriptions is None and self.aside is None

    def put(self, subscriber: S, subscription: Subscription) -> bool:
        """Add or replace; whether it is new."""
        if self.subscriptions is None:
            self.subscriptions = {}
        new = subscriber not in self.subscriptions
        self.version += new
        self.subscriptions[subscriber] = (subscription,)
        return new

    def take(self, subscriber: S) -> bool:
        """Take a subscriber out; False where it is not there."""
        subscriptions = self.subscriptions
        if subscriptions is None or subscriptions.pop(subscriber, None) is None:
            return False
        self.version += 1
        if not subscriptions:
            self.subscriptions = None
        return True

    def put_aside(self, member: str) -> bool:
        """Add one that is set aside; whether it is new."""
        aside = self.aside
        if aside is None:
            self.aside = member
            return True
        if isinstance(aside, str):
            if aside == member:
                return False
            inbox, _, client_id = aside.partition(DEVICE)
            aside = self.aside = {inbox: client_id}
            self._note_group(inbox)
        inbox, _, client_id = member.partition(DEVICE)
        known = aside.get(inbox)
        if known is None:
            aside[inbox] = client_id
            self._note_group(inbox)
        elif isinstance(known, set):
            if client_id in known:
                return False
            known.add(client_id)
        elif known == client_id:
            return False
        else:
            aside[inbox] = {known, client_id}
        return True

    def _note_group(self, inbox: str) -> None:
        if is_group(inbox):
            if self.groups is None:
                self.groups = {}
            self.groups[inbox] = None

    def take_aside(self, member: str) -> bool:
        """Take one out; False where it is not there."""
        aside = self.aside
        if aside is None or isinstance(aside, str):
            if aside != member:
                return False
            self.aside = None
            return True
        inbox, _, client_id = member.partition(DEVICE)
        known = aside.get(inbox)
        if isinstance(known, set):
            if client_id not in known:
                return False
            known.discard(client_id)
            if len(known) == 1:
                aside[inbox] = known.pop()
        elif known != client_id:
            return False
        else:
            del aside[inbox]
            if self.groups is not None:
                self.groups.pop(inbox, None)
        if len(aside) == 1:
            ((inbox, last),) = aside.items()
            if isinstance(last, str):
                self.groups = None
                self.aside = f"{inbox}{DEVICE}{last}" if last else inbox
        return True


class Trie(Generic[S]):
    """Subscriptions by filter, and the cache of matches by topic."""

    def __init__(self, cache_weight: int = 100_000) -> None:
        self._root: _Place[S] = _Place()
        self._exact: dict[str, _Place[S] | str] = {}
        """Filters without wildcards. A name stands for a place that has nothing but that one aside."""
        self._cache: dict[str, Match[S]] = {}
        self._cache_weight = 0
        self._cache_limit = cache_weight
        self.channel_of: Callable[[str], str | None] | None = None
        """The channel of a topic, where any has read fan-out; set before the first message."""
        self.count = 0
        """How many subscriptions there are."""

    def add(self, filter_: str, subscriber: S, subscription: Subscription) -> None:
        """Add the subscription, or replace the one that the subscriber has with this filter."""
        if self._make(filter_).put(subscriber, subscription):
            self.count += 1
            self._forget(filter_)

    def remove(self, filter_: str, subscriber: S) -> bool:
        """Remove the subscription; False where there is none. Branches left empty are removed too."""
        place = self._find(filter_)
        if place is None or isinstance(place, str) or not place.take(subscriber):
            return False
        self.count -= 1
        if place.empty:
            self._prune(filter_)
        self._forget(filter_)
        return True

    # --- who is set aside ----------------------------------------------------------------------------------------------

    def add_aside(self, filter_: str, member: str) -> None:
        """Add the subscription of somebody who is set aside, where it is not known."""
        if not _wild(filter_) and filter_ not in self._exact:
            self._exact[filter_] = member
        elif self._exact.get(filter_) == member or not self._make(filter_).put_aside(member):
            return
        self.count += 1
        self._forget(filter_)

    def remove_aside(self, filter_: str, member: str) -> None:
        """Remove the subscription of somebody who is set aside, where there is one."""
        place = self._find(filter_)
        if place is None:
            return
        if isinstance(place, str):
            if place != member:
                return
            del self._exact[filter_]
        elif not place.take_aside(member):
            return
        elif place.empty:
            self._prune(filter_)
        else:
            self._shorten(filter_, place)
        self.count -= 1
        self._forget(filter_)

    def set_aside(self, filter_: str, subscriber: S, member: str) -> None:
        """Keep only the name of a subscriber that has this filter."""
        place = self._make(filter_)
        self.count += place.put_aside(member) - place.take(subscriber)
        self._shorten(filter_, place)

    def bring_back(self, filter_: str, subscriber: S, subscription: Subscription, member: str) -> None:
        """The subscriber that was set aside is here again; with a filter that was not known it is new."""
        place = self._make(filter_)
        new, known = place.put(subscriber, subscription), place.take_aside(member)
        self.count += new - known
        if not known:
            self._forget(filter_)

    def _shorten(self, filter_: str, place: _Place[S]) -> None:
        """Let a name stand for a place that has nothing else."""
        if place.subscriptions is None and isinstance(place.aside, str) and not _wild(filter_):
            self._exact[filter_] = place.aside
            self._forget(filter_)

    # --- matching ------------------------------------------------------------------------------------------------------

    def match(self, topic: str) -> Match[S]:
        """Who gets a message of this topic name, which must be valid."""
        match = self._cache.get(topic)
        if match is None:
            channel = None if self.channel_of is None else self.channel_of(topic)
            match = self._cache[topic] = Match(self._walk(topic), channel)
            self._cache_weight += match.weight
            while self._cache_weight > self._cache_limit and len(self._cache) > 1:
                self._drop(next(iter(self._cache)))
        return match

    def _walk(self, topic: str) -> list[_Place[S]]:
        levels = topic.split("/")
        found: list[_Place[S]] = []
        exact = self._exact.get(topic)
        if isinstance(exact, str):
            alone: _Place[S] = _Place()
            alone.aside = exact
            found.append(alone)
        elif exact is not None:
            found.append(exact)
        places = [self._root]
        for depth, level in enumerate(levels):
            wild = depth > 0 or not topic.startswith("$")
            following: list[_Place[S]] = []
            for place in places:
                children = place.children
                if children is None:
                    continue
                if wild:
                    if "#" in children:
                        found.append(children["#"])
                    if "+" in children:
                        following.append(children["+"])
                if level in children:
                    following.append(children[level])
            places = following
            if not places:
                break
        for place in places:
            found.append(place)
            if place.children is not None and "#" in place.children:
                found.append(place.children["#"])
        return [place for place in found if not place.empty]

    # --- places --------------------------------------------------------------------------------------------------------

    def _find(self, filter_: str) -> _Place[S] | str | None:
        if not _wild(filter_):
            return self._exact.get(filter_)
        place = self._root
        for level in filter_.split("/"):
            child = place.children.get(level) if place.children is not None else None
            if child is None:
                return None
            place = child
        return place

    def _make(self, filter_: str) -> _Place[S]:
        """The place of a filter, made where there is none. A result that is kept may have stood in for it."""
        if not _wild(filter_):
            exact = self._exact.get(filter_)
            if exact is None or isinstance(exact, str):
                place: _Place[S] = _Place()
                place.aside = exact
                self._exact[filter_] = place
                self._forget(filter_)
                return place
            return exact
        place = self._root
        for level in filter_.split("/"):
            if place.children is None:
                place.children = {}
            child = place.children.get(level)
            if child is None:
                child = place.children[level] = _Place()
            place = child
        return place

    def _prune(self, filter_: str) -> None:
        """Remove the place of a filter that nobody has, and the branches that only led there."""
        if not _wild(filter_):
            del self._exact[filter_]
            return
        path = [self._root]
        levels = filter_.split("/")
        for level in levels:
            path.append((path[-1].children or {})[level])
        for depth in range(len(levels), 0, -1):
            if not path[depth].empty or path[depth].children:
                break
            children = path[depth - 1].children
            assert children is not None
            del children[levels[depth - 1]]
            if not children:
                path[depth - 1].children = None

    def _forget(self, filter_: str) -> None:
        # A filter without wildcards changes one topic. One with them may change any: walking the trie again for each topic
        # as it comes is cheaper than testing all cached topics here.
        if _wild(filter_):
            self._cache.clear()
            self._cache_weight = 0
        elif filter_ in self._cache:
            self._drop(filter_)

    def _drop(self, topic: str) -> None:
        self._cache_weight -= self._cache.pop(topic).weight


def _wild(filter_: str) -> bool:
    return "+" in filter_ or "#" in filter_
