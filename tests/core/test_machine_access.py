"""What a delivery machine asks access control: no more than it has to, and anew whatever may have changed meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from broker.access import AccessControl, AuthRequest, Identity, SessionInfo, Verdict
from broker.clock import ServerTime
from broker.connection.connection import Connection
from broker.counters import Counters
from broker.delivery.machine import Machine
from broker.routing.trie import Trie
from broker.server import Server
from broker.sessions.cursor import Cursor, Head
from broker.sessions.session import Session
from broker.sessions.timeline import LIVE_ONLY
from storage.records import DeviceKey, InboxEntry, Message, Subscription
from tests.support.broker import settings

pytestmark = pytest.mark.inside

KEY = DeviceKey("c/d", "d")


class Deciding:
    """A topic plugin that counts what it is asked."""

    unused = False
    cacheable = True

    def __init__(self) -> None:
        self.allows = True
        self.asked: list[str] = []

    def decide(self, info: SessionInfo, action: str, topic: str) -> Verdict:
        self.asked.append(topic)
        return Verdict(self.allows, None, "as the test says")


class Rig:
    """A device that is subscribed to everything, and its machine."""

    auth_plugins = ()

    def __init__(self, plugin: Any, **settings_: float) -> None:
        self.topic_plugins = [plugin]
        self.access = AccessControl(self, **settings_)
        self.session = Session(KEY, durable=True, window=100)
        subscription = Subscription("#", 1)
        self.session.subscriptions = {"#": subscription}
        trie: Trie[Any] = Trie()
        trie.add("#", self.session, subscription)
        connection = Connection(Server(settings()), "test")
        connection.info = self.info = SessionInfo(Identity(KEY.user), AuthRequest(KEY.client_id))
        self.head = Head(0)
        self.cursor = Cursor(self.head, 0)
        self.session.attach(self.cursor)
        self.machine = Machine(self.session, self.cursor, connection, trie, self.access, Counters(), ServerTime())

    def commit(self, *topics: str) -> int:
        """Entries for these; how many of them one step gives the device."""
        for topic in topics:
            self.head.seq += 1
            self.cursor.push(InboxEntry(self.head.seq, Message(self.head.seq, topic, "c/o", "o", 0, 1, b"x")))
        return self.step()

    def step(self) -> int:
        return len(self.machine.step()) // 4  # of QoS 1: two parts, and two bytes of the identifier


@pytest.fixture
def plugin() -> Deciding:
    return Deciding()


def test_a_run_of_messages_of_one_topic_is_asked_about_once(plugin: Deciding) -> None:
    assert Rig(plugin).commit("a", "a", "a", "b", "a") == 5
    assert plugin.asked == ["a", "b"]


def test_rules_that_change_hold_from_the_next_step(plugin: Deciding) -> None:
    rig, topic = Rig(plugin), "a"
    assert rig.commit(topic, topic) == 2
    plugin.allows = False
    rig.access.rules_changed()
    assert rig.commit(topic, topic) == 0
    plugin.allows = True
    rig.access.rules_changed()
    assert rig.commit(topic) == 1


def test_rules_that_change_hold_from_the_next_message_of_a_group(plugin: Deciding) -> None:
    rig, topic = Rig(plugin), "a"

    def given(number: int) -> bool:
        message = Message(number, topic, "c/o", "o", 0, 1, b"x")
        return bool(rig.machine.give_of_group(message, Subscription("$share/g/#", 1), number, LIVE_ONLY, True))

    assert given(1)
    plugin.allows = False
    rig.access.rules_changed()
    assert not given(2)


def test_who_authenticates_again_is_asked_about_again(plugin: Deciding) -> None:
    rig, topic = Rig(plugin), "a"
    assert rig.commit(topic) == 1
    plugin.allows = False
    rig.info.forget_answers()
    assert rig.commit(topic) == 0


class Moody:
    """As amqtt has them. It answers on the spot, and wants to be asked each time."""

    immediate = True
    cacheable = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def topic_filtering(self, *, session: object, topic: str, action: object) -> bool:
        self.asked.append(topic)
        return True


def test_a_plugin_may_want_to_be_asked_about_each_message() -> None:
    moody = Moody()
    assert Rig(moody).commit("a", "a", "a") == 3
    assert moody.asked == ["a", "a", "a"]


def test_where_no_answer_is_kept_each_message_is_asked_about(plugin: Deciding) -> None:
    assert Rig(plugin, acl_cache_seconds=0).commit("a", "a", "a") == 3
    assert plugin.asked == ["a", "a", "a"]


class Members(Deciding):
    """Topics below ``conv/`` are their members'."""

    governed = 0

    def governs(self, topic: str) -> bool:
        self.governed += 1
        return topic.startswith("conv/")

    def known(self, user: str, action: str, topic: str) -> bool | None:
        self.asked.append(topic)
        return self.allows

    async def ask(self, user: str, action: str, topic: str) -> bool:
        return self.allows


class OnlyMembers:
    """As `Members`, and no `Decider`."""

    def __init__(self) -> None:
        self.governs = (members := Members()).governs
        self.known, self.ask = members.known, members.ask
        self.members = members


def test_who_is_no_member_any_more_is_given_nothing_more_though_nobody_tells_access_control() -> None:
    plugin = OnlyMembers()
    rig, topic = Rig(plugin), "conv/a"
    assert rig.commit(topic, "else") == 2
    plugin.members.allows = False
    assert rig.commit(topic, "else", topic) == 1
    plugin.members.allows = True
    assert rig.commit(topic) == 1


def test_whose_topic_it_is_is_asked_once_and_who_is_a_member_each_time() -> None:
    plugin = OnlyMembers()
    rig = Rig(plugin)
    for _ in range(3):
        rig.commit("conv/a", "else")
    assert plugin.members.asked == ["conv/a"] * 3
    asked = plugin.members.governed
    rig.commit("conv/a", "else")
    assert plugin.members.governed == asked


def test_a_list_that_cannot_tell_at_once_is_waited_for() -> None:
    plugin = OnlyMembers()
    rig = Rig(plugin)
    assert rig.access.cached(rig.info, "receive", "conv/a") is True
    plugin.members.allows = None  # type: ignore[assignment]
    assert rig.access.cached(rig.info, "receive", "conv/a") is None


async def test_that_somebody_was_no_member_is_not_kept() -> None:
    """Who becomes one need not wait until an answer is forgotten."""
    plugin = OnlyMembers()
    rig, plugin.members.allows = Rig(plugin), None  # type: ignore[assignment]
    assert not await rig.access.allowed(rig.info, "receive", "conv/a")
    plugin.members.allows = True
    assert rig.access.cached(rig.info, "receive", "conv/a") is True
