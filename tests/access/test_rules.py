"""What rules mean: an answer for each question, and coverage compared with every topic that there is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.access.filter_tree import Caller, FilterTree, levels_of
from broker.access.rule_set import ACTIONS, RuleSet, decide
from broker.access.rules import AccessRule
from broker.packets.topics import matches
from tests.support.seeds import examples

ALICE = Caller("alice", "phone")
NOBODY = Caller(None, "phone")


def rules(*written: dict[str, object]) -> RuleSet:
    return RuleSet((f"rule {number}", AccessRule.parse(rule)) for number, rule in enumerate(written))


def allowed(found: RuleSet, caller: Caller, action: str, topic: str) -> bool:
    return decide([found], caller, action, topic).allowed


# --- rules ---------------------------------------------------------------------------------------------------------

HOME = rules(
    {"allow": "publish", "topics": "up/{client}", "users": "alice"},
    {"allow": "read", "topics": ["home/#", "a/+/b"]},
    {"deny": "all", "topics": "home/secret/#"},
    {"allow": "all", "topics": "home/secret/door", "users": ["alice"]},
    {"allow": ["subscribe"], "topics": "only/asked"},
    {"allow": ["receive"], "topics": "only/given"},
    {"deny": "search", "topics": "home/quiet"},
    {"deny": "publish", "topics": "home/open/{user}", "users": ["alice", "bob"]},
    {"allow": "publish", "topics": "home/open/+"},
    {"deny": "subscribe", "topics": "home/unseen"},
    {"allow": "history", "topics": "+/stats/#"},
)


@pytest.mark.parametrize(
    ("caller", "action", "topic", "expected"),
    [
        (ALICE, "publish", "up/phone", True),
        (ALICE, "publish", "up/laptop", False),
        (NOBODY, "publish", "up/phone", False),  # a rule for a user
        (NOBODY, "receive", "home/kitchen", True),
        (NOBODY, "publish", "home/kitchen", False),  # denied by default
        (ALICE, "receive", "home/secret/door", False),  # deny wins, though a later rule allows it to her by name
        (NOBODY, "subscribe", "home/#", True),  # all of it is covered; the part that is denied is not received
        (NOBODY, "subscribe", "home/secret/#", False),
        (NOBODY, "subscribe", "home/secret", False),  # "home/secret/#" matches its parent too
        (NOBODY, "subscribe", "#", False),  # wider than what is allowed: refused, not narrowed
        (NOBODY, "subscribe", "a/+/b", True),
        (NOBODY, "subscribe", "a/x/b", True),
        (NOBODY, "subscribe", "a/#", False),
        (NOBODY, "subscribe", "only/asked", True),
        (NOBODY, "receive", "only/asked", False),
        (NOBODY, "receive", "only/given", False),  # nothing is received that could not be subscribed to
        (NOBODY, "receive", "home/unseen", False),  # nor by a wider subscription
        (NOBODY, "history", "home/unseen", True),
        (NOBODY, "history", "home/quiet", True),
        (NOBODY, "search", "home/quiet", False),
        (ALICE, "publish", "home/open/alice", False),
        (Caller("bob"), "publish", "home/open/alice", True),
        (NOBODY, "receive", "$SYS/broker/uptime", False),
        (NOBODY, "history", "home/stats/x", True),
        (NOBODY, "history", "$SYS/stats/x", False),  # a wildcard at the beginning is no $
        (NOBODY, "receive", "a/x/b/c", False),  # what is below a rule without "#"
    ],
)
def test_an_answer(caller: Caller, action: str, topic: str, expected: bool) -> None:
    assert allowed(HOME, caller, action, topic) is expected


def test_the_rule_that_decides_is_named() -> None:
    assert decide([HOME], ALICE, "receive", "home/secret/x").why == "denied by rule 2: deny all on home/secret/#"
    assert decide([HOME], ALICE, "receive", "home/x").why == "allowed by rule 1: allow read on home/#, a/+/b"
    assert decide([HOME], ALICE, "publish", "x") == (False, None, "no rule allows it")


def test_without_rules_everything_may_be_done_and_with_one_nothing_that_it_does_not_allow() -> None:
    found = rules()
    assert found.empty
    assert all(allowed(found, NOBODY, action, "x") for action in ACTIONS)
    found.put("one", AccessRule(allow="publish", topics="y", users="alice"))
    assert not any(allowed(found, NOBODY, action, "x") for action in ACTIONS)
    found.put("one", AccessRule(allow="all", topics=["x", "x"], users=["bob", "bob"]))  # in its place
    assert not allowed(found, ALICE, "publish", "y")
    assert allowed(found, Caller("bob"), "publish", "x")
    found.drop("one")
    found.drop("one")
    assert found.empty
    assert allowed(found, NOBODY, "publish", "x")


def test_any_first_level_is_every_topic() -> None:
    assert allowed(rules({"allow": "subscribe", "topics": "+/#"}), NOBODY, "subscribe", "#")


@pytest.mark.parametrize("name", ["a/#", "+", "#", "a/b", "/", "", "$SYS", "$SYS/x"])
@pytest.mark.parametrize("asked", ["+/x", "#", "a/b/x", "a/#/x", "+/+", "$SYS/x", "$SYS/#", "/x", "other/x", "a/x"])
def test_a_name_gives_no_more_than_its_own_level(name: str, asked: str) -> None:
    found = rules({"allow": "all", "topics": ["{user}/x", "{client}/x", "{user}/#", "{client}/#"]})
    for caller in (Caller(name), Caller(None, name), Caller(name, name)):
        for action in ("subscribe", "receive"):
            assert not allowed(found, caller, action, asked)


def test_a_placeholder_fills_a_level_or_a_part_of_it() -> None:
    found = rules({"allow": "all", "topics": ["$dev/{user}-{client}/x", "$c{client}"]})
    assert allowed(found, ALICE, "publish", "$dev/alice-phone/x")
    assert allowed(found, ALICE, "publish", "$cphone")
    assert not allowed(found, Caller("alice-phone", ""), "publish", "$dev/alice-phone-/x")
    assert not allowed(found, NOBODY, "publish", "$dev/-phone/x")
    assert not allowed(found, Caller("alice", None), "publish", "$dev/alice-/x")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"topics": "a"}, "a rule needs either allow or deny, with what it allows or denies"),
        ({"allow": "read", "deny": "all", "topics": "a"}, "a rule needs either allow or deny"),
        ({"allow": "write", "topics": "a"}, "allow 'write' must be publish, subscribe, receive, history, search, read"),
        ({"deny": [], "topics": "a"}, "deny must name something"),
        ({"deny": "all"}, "topics must name something"),
        ({"deny": "all", "topics": ["a", "a/#/b"]}, "topics: topic filter 'a/#/b': '#' must be the whole last level"),
        ({"deny": "all", "topics": "$share/g/a"}, "topics '$share/g/a' must be the filter behind $share/<group>/"),
        ({"deny": "all", "topics": "a/{usr}"}, "topics 'a/{usr}' must not have {usr}: there is {user} and {client}"),
        ({"deny": "all", "topics": "a", "users": []}, "users must name something; leave it out for everybody"),
        ({"deny": "all", "topics": "a", "users": ["b", ""]}, "users '' must be a user name"),
        ({"deny": "all", "topics": "a", "user": "b"}, "user: unknown in a rule; there is allow, deny, topics, users"),
        ({"deny": "all", "topics": 5}, "topics must be text or a list of text"),
        ("deny", "a rule must be an object"),
    ],
)
def test_what_is_no_rule_is_told(written: object, problem: str) -> None:
    with pytest.raises(ValueError) as told:
        AccessRule.parse(written)
    assert str(told.value).startswith(problem)


# --- coverage ------------------------------------------------------------------------------------------------------

LEVELS = ("a", "b", "$x", "")
NAMES = [name for depth in (1, 2, 3, 4) for name in map("/".join, product(LEVELS, repeat=depth)) if name]
"""As deep as a filter below can tell apart: one level more than its own."""

FILTERS = [
    filter
    for depth in (1, 2, 3)
    for levels in product((*LEVELS, "+", "#"), repeat=depth)
    if "#" not in levels[:-1] and (filter := "/".join(levels))
]


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(FILTERS), min_size=1, max_size=6), st.sampled_from(FILTERS), st.integers(0, 63))
def test_what_covers_matches_all_that_the_other_matches(added: list[str], asked: str, removed: int) -> None:
    tree: FilterTree[int] = FilterTree()
    for number, filter in enumerate(added):
        tree.add(levels_of(filter, {}), number)
    held = {number: filter for number, filter in enumerate(added) if not removed >> number & 1}
    for number in range(len(added)):
        if number not in held:
            tree.remove(levels_of(added[number], {}), number)
    topics = [name for name in NAMES if matches(asked, name)]
    if topics:  # else no name of these levels tells them apart
        covering = {number for number, filter in held.items() if all(matches(filter, name) for name in topics)}
        assert sorted(tree.covering(asked, Caller())) == sorted(covering)
    for name in topics[:5]:
        assert sorted(tree.covering(name, Caller())) == sorted(n for n, filter in held.items() if matches(filter, name))
    for number, filter in held.items():
        tree.remove(levels_of(filter, {}), number)
    assert tree.empty
