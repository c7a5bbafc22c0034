"""The subscription trie finds what comparing every filter finds, with or without its cache."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.packets.topics import matches
from broker.routing.trie import Trie
from broker.sessions import member_of
from storage.records import Subscription
from tests.core.strategies import filters, names
from tests.support.seeds import examples


@dataclass(eq=False)
class Subscriber:
    name: str
    inbox: str

    @property
    def member(self) -> str:
        return member_of(self.inbox, self.name)


SUBSCRIBERS = [Subscriber("one", "u/a"), Subscriber("two", "u/a"), Subscriber("three", "u/b"), Subscriber("live", "")]
subscribers = st.sampled_from(SUBSCRIBERS)


class TrieAgainstBruteForce(RuleBasedStateMachine):
    """Subscriptions come, change and go; every answer is compared with all filters tried one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, Subscriber], Subscription] = {}
        self.aside: set[Subscriber] = set()
        self.trie: Trie[Subscriber] = Trie()

    @initialize(weight=st.sampled_from([0, 1, 5, 100]))
    def start(self, weight: int) -> None:
        self.trie = Trie(weight)

    @rule(name=filters, subscriber=subscribers, options=st.integers(0, 2))
    def add(self, name: str, subscriber: Subscriber, options: int) -> None:
        self.bring_back(subscriber)
        subscription = Subscription(name, options)
        self.trie.add(name, subscriber, subscription)
        self.held[name, subscriber] = subscription

    @rule(name=filters, subscriber=subscribers)
    def remove(self, name: str, subscriber: Subscriber) -> None:
        self.bring_back(subscriber)
        assert self.trie.remove(name, subscriber) == ((name, subscriber) in self.held)
        self.held.pop((name, subscriber), None)

    @rule(data=st.data())
    def remove_one_that_is_there(self, data: st.DataObject) -> None:
        if self.held:
            self.remove(*data.draw(st.sampled_from(list(self.held))))

    @rule(subscriber=st.sampled_from([s for s in SUBSCRIBERS if s.inbox]))
    def set_aside(self, subscriber: Subscriber) -> None:
        """Its device is gone; with all filters that it has."""
        if subscriber not in self.aside:
            self.aside.add(subscriber)
            for name, holder in self.held:
                if holder is subscriber:
                    self.trie.set_aside(name, subscriber, subscriber.member)

    @rule(subscriber=subscribers)
    def bring_back(self, subscriber: Subscriber) -> None:
        if subscriber in self.aside:
            self.aside.discard(subscriber)
            for (name, holder), subscription in self.held.items():
                if holder is subscriber:
                    self.trie.bring_back(name, subscriber, subscription, subscriber.member)

    @rule(name=filters, subscriber=st.sampled_from([s for s in SUBSCRIBERS if s.inbox]), times=st.integers(1, 3))
    def told_that_it_subscribed(self, name: str, subscriber: Subscriber, times: int) -> None:
        """By another node, once or again."""
        if subscriber in self.aside:
            self.held[name, subscriber] = Subscription(name, 1)
            for _ in range(times):
                self.trie.add_aside(name, subscriber.member)

    @rule(data=st.data(), times=st.integers(1, 3))
    def told_that_it_unsubscribed(self, data: st.DataObject, times: int) -> None:
        absent = [pair for pair in self.held if pair[1] in self.aside]
        if absent:
            name, subscriber = data.draw(st.sampled_from(absent))
            del self.held[name, subscriber]
            for _ in range(times):
                self.trie.remove_aside(name, subscriber.member)

    @rule(name=filters, subscriber=st.sampled_from([s for s in SUBSCRIBERS if s.inbox]))
    def taken_up_with_more_than_was_told(self, name: str, subscriber: Subscriber) -> None:
        """Storage had a filter that this node had not heard of yet; or it was set aside with one that is known."""
        subscription = Subscription(name, 1)
        if subscriber in self.aside and (name, subscriber) not in self.held:
            self.bring_back(subscriber)
            self.trie.bring_back(name, subscriber, subscription, subscriber.member)
            self.held[name, subscriber] = subscription
        elif subscriber not in self.aside and (name, subscriber) in self.held:
            self.trie.add_aside(name, subscriber.member)
            self.set_aside(subscriber)

    @rule()
    def start_again(self) -> None:
        """With everybody who has an inbox set aside, as a broker starts."""
        self.trie = Trie(100)
        for (name, subscriber), subscription in self.held.items():
            if subscriber.inbox:
                self.aside.add(subscriber)
                self.trie.add_aside(name, subscriber.member)
            else:
                self.trie.add(name, subscriber, subscription)

    @rule(topics=st.lists(names, min_size=1, max_size=8))
    def look_up(self, topics: list[str]) -> None:
        for topic in topics:
            match = self.trie.match(topic)
            wanted: dict[Subscriber, list[Subscription]] = {s: [] for s in SUBSCRIBERS}
            for (name, subscriber), subscription in self.held.items():
                if matches(name, topic):
                    wanted[subscriber].append(subscription)
            for subscriber, due in wanted.items():
                here = [] if subscriber in self.aside else due
                assert sorted(map(id, match.granted(subscriber))) == sorted(map(id, here))
            reached = {subscriber for subscriber, due in wanted.items() if due}
            assert set(match.subscribers()) == reached - self.aside
            assert sorted(match.recipients) == sorted({s.inbox for s in reached if s.inbox})
            readers = [{s for s in reached - self.aside if s.inbox == inbox} for inbox in match.recipients]
            assert [set(found) for found in match.readers()] == readers
            assert set(match.live) == {s for s in reached if not s.inbox}
            assert bool(match) == bool(reached)

    @invariant()
    def count_is_right(self) -> None:
        assert self.trie.count == len(self.held)

    def teardown(self) -> None:
        for subscriber in SUBSCRIBERS:
            self.bring_back(subscriber)
        for name, subscriber in list(self.held):
            assert self.trie.remove(name, subscriber)
        assert not self.trie._root.children, "branches without subscriptions are left behind"
        assert not self.trie._exact


TestTrie = TrieAgainstBruteForce.TestCase
TestTrie.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


@given(st.lists(filters, max_size=10), st.lists(names, min_size=1, max_size=50), st.integers(0, 30))
def test_the_cache_stays_within_its_weight(held: list[str], topics: list[str], weight: int) -> None:
    trie: Trie[Subscriber] = Trie(weight)
    for name in held:
        for subscriber in SUBSCRIBERS:
            trie.add(name, subscriber, Subscription(name, 0))
    for topic in topics:
        trie.match(topic)
        cached = [match.weight for match in trie._cache.values()]
        assert trie._cache_weight == sum(cached)
        assert sum(cached) <= weight or len(cached) == 1


def test_a_repeated_topic_is_not_matched_again() -> None:
    trie: Trie[Subscriber] = Trie()
    trie.add("a/+", SUBSCRIBERS[0], Subscription("a/+", 1))
    first = trie.match("a/b")
    trie.add("elsewhere", SUBSCRIBERS[0], Subscription("elsewhere", 1))
    assert trie.match("a/b") is first
    trie.set_aside(
        "a/+", SUBSCRIBERS[0], SUBSCRIBERS[0].member
    )  # a device with wildcards that comes and goes costs nobody a walk
    trie.bring_back("a/+", SUBSCRIBERS[0], Subscription("a/+", 1), SUBSCRIBERS[0].member)
    assert trie.match("a/b") is first
    trie.add("a/b", SUBSCRIBERS[0], Subscription("a/b", 1))
    assert trie.match("a/b") is not first


def test_who_comes_and_goes_is_seen_in_a_match_that_is_kept() -> None:
    trie: Trie[Subscriber] = Trie()
    one, two = SUBSCRIBERS[:2]
    for subscriber in (one, two):
        trie.add("a/+", subscriber, Subscription("a/+", 1))
    match = trie.match("a/b")
    assert match.readers() == [[one, two]]
    trie.set_aside("a/+", one, one.member)
    assert match.readers() == [[two]]
    trie.bring_back("a/+", one, Subscription("a/+", 1), one.member)
    assert match.readers() == [[two, one]]
    assert trie.match("a/b") is match


def test_a_very_deep_topic_does_not_recurse() -> None:
    trie: Trie[Subscriber] = Trie()
    deep = "/".join(["x"] * 30_000)
    trie.add("#", SUBSCRIBERS[0], Subscription("#", 0))
    trie.add(deep, SUBSCRIBERS[1], Subscription(deep, 0))
    assert set(trie.match(deep).subscribers()) == set(SUBSCRIBERS[:2])
    assert trie.remove(deep, SUBSCRIBERS[1])


def test_who_is_away_from_a_channel_weighs_nothing() -> None:
    """So that a message for a channel costs as much, and pushes as little out of the cache, however many have it."""
    trie: Trie[Subscriber] = Trie(10)
    trie.channel_of = lambda topic: "r/news/#" if topic.startswith("news/") else None
    users = [f"u/{number}" for number in range(100)]
    for user in users:
        trie.add_aside("news/a", member_of(user, "phone"))
    other = trie.match("other")
    match = trie.match("news/a")
    assert (match.recipients, match.channel) == (("r/news/#",), "r/news/#")
    assert sorted(match.users) == sorted(users)
    assert trie.match("other") is other
    trie.add("news/+", SUBSCRIBERS[0], Subscription("news/+", 1))
    for group in ("s/g/news/a", "s/h/news/a"):
        trie.add_aside("news/a", group)
    assert trie.match("news/a").recipients == ("s/g/news/a", "s/h/news/a", "r/news/#")
    assert sorted(trie.match("news/a").users) == sorted({*users, SUBSCRIBERS[0].inbox})
    trie.remove_aside("news/a", "s/g/news/a")
    for user in users:
        trie.remove_aside("news/a", member_of(user, "phone"))
    assert trie.match("news/a").recipients == ("s/h/news/a", "r/news/#")
    trie.remove("news/+", SUBSCRIBERS[0])
    assert trie.match("news/a").recipients == ("s/h/news/a",), "groups have inboxes of their own"
    trie.remove_aside("news/a", "s/h/news/a")
    assert not trie.match("news/a")
