"""Access rules: who may do what on which topics (docs/decisions/0014, docs/access.md). No I/O.

- A rule allows or denies actions on topic filters, to the users it names or to everybody. Deny wins, wherever it stands; what
  no rule allows is denied, once there is any rule.
- publish, receive, history and search are asked about a topic name.
- subscribe is asked about a filter: a rule has to cover all of it. What denies a part of it narrows what is received.
- A message is received where its topic may be received *and* subscribed to: so a subscription that outlived its rule is silent.

Compiled (setup.py): a client of very many topics has each of them looked up again and again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.access.filter_tree import Caller, FilterTree

if TYPE_CHECKING:
    from broker.access.rules import AccessRule

PUBLISH: Final = "publish"
SUBSCRIBE: Final = "subscribe"
RECEIVE: Final = "receive"
HISTORY: Final = "history"
SEARCH: Final = "search"
ACTIONS: Final = (PUBLISH, SUBSCRIBE, RECEIVE, HISTORY, SEARCH)


class Rule:
    """A rule that is asked: what it does to which actions, where it was written, how it reads, and its place among those of its
    source. ``verdict`` is what is said where it decides."""

    __slots__ = ("actions", "allow", "number", "place", "text", "verdict")

    def __init__(self, allow: bool, actions: frozenset[str], place: str, text: str, number: int) -> None:
        self.allow = allow
        self.actions = actions
        self.place = place
        self.text = text
        self.number = number
        self.verdict = Verdict(allow, self, f"{'allowed' if allow else 'denied'} by {place}: {text}")


class Verdict(NamedTuple):
    """An answer, and the rule that decides; None where no rule allows it, or there are no rules."""

    allowed: bool
    rule: Rule | None
    why: str


_NO_RULE: Final = Verdict(False, None, "no rule allows it")
_NO_RULES: Final = Verdict(True, None, "there are no rules")


class Source(Protocol):
    """What has an opinion: rules of ours, or a file of Mosquitto's."""

    @property
    def empty(self) -> bool:
        """Whether it has no rule at all."""

    def verdict(self, caller: Caller, action: str, topic: str) -> Verdict | None:
        """What it allows or denies; None where no rule of it is about that."""


class RuleSet:
    """Rules of ours, by the place where each was written."""

    def __init__(self, rules: Iterable[tuple[str, AccessRule]] = ()) -> None:
        """(place, rule) of each."""
        self._everybody: FilterTree[Rule] = FilterTree()
        self._of_user: dict[str, FilterTree[Rule]] = {}
        self._items: dict[str, tuple[Rule, AccessRule]] = {}
        self._added = 0
        for place, rule in rules:
            self.put(place, rule)

    @property
    def empty(self) -> bool:
        """As of `Source`."""
        return not self._items

    def put(self, place: str, written: AccessRule) -> None:
        """Add a rule, or have it instead of the one of this place."""
        self.drop(place)
        self._added += 1
        rule = written.compiled(place, self._added)
        self._items[place] = (rule, written)
        for levels, user in written.parts():
            (self._everybody if user is None else self._of_user.setdefault(user, FilterTree())).add(levels, rule)

    def drop(self, place: str) -> None:
        """Forget the rule of this place, if there is one."""
        if place not in self._items:
            return
        rule, written = self._items.pop(place)
        for levels, user in written.parts():
            tree = self._everybody if user is None else self._of_user[user]
            tree.remove(levels, rule)
            if user is not None and tree.empty:
                del self._of_user[user]

    def verdict(self, caller: Caller, action: str, topic: str) -> Verdict | None:
        """As of `Source`. Of several rules that decide the same, the first is told."""
        found = self._everybody.covering(topic, caller)
        own = self._of_user.get(caller.user) if caller.user is not None else None
        if own is not None:
            found += own.covering(topic, caller)
        receiving = action == RECEIVE
        subscribed = not receiving
        denies: Rule | None = None
        allows: Rule | None = None
        for rule in found:
            actions = rule.actions
            if not rule.allow:
                if (denies is None or rule.number < denies.number) and (
                    action in actions or (receiving and SUBSCRIBE in actions)
                ):
                    denies = rule
            else:
                subscribed = subscribed or SUBSCRIBE in actions
                if action in actions and (allows is None or rule.number < allows.number):
                    allows = rule
        if denies is not None:
            return denies.verdict
        return allows.verdict if allows is not None and subscribed else None


def decide(sources: Iterable[Source], caller: Caller, action: str, topic: str) -> Verdict:
    """What all of them together say: one that denies is enough, else one that allows; nobody allows: denied."""
    allowed = None
    there = False
    for source in sources:
        if source.empty:
            continue
        there = True
        verdict = source.verdict(caller, action, topic)
        if verdict is None:
            continue
        if not verdict.allowed:
            return verdict
        allowed = allowed or verdict
    if allowed is not None:
        return allowed
    return _NO_RULE if there else _NO_RULES
