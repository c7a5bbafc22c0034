"""Access rules: who may do what on which topics (docs/decisions/0014, docs/access.md). No I/O.

- A rule allows or denies actions on topic filters, to the users it names or to everybody. Deny wins, wherever it stands; what
  no rule allows is denied, once there is any rule.
- publish, receive, history and search are asked about a topic name.
- subscribe is asked about a filter: a rule has to cover all of it. What denies a part of it narrows what is received.
- A message is received where its topic may be received *and* subscribed to: so a subscription that outlived its rule is silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from broker.access.filter_tree import Caller, FilterTree, Level, levels_of
from broker.errors import refuse
from broker.packets import ProtocolViolation, validate_filter

PUBLISH: Final = "publish"
SUBSCRIBE: Final = "subscribe"
RECEIVE: Final = "receive"
HISTORY: Final = "history"
SEARCH: Final = "search"
ACTIONS: Final = (PUBLISH, SUBSCRIBE, RECEIVE, HISTORY, SEARCH)

RULE_KIND: Final = "rule"
"""The stored settings (`storage.records.Setting`) that are rules: key is a rule's id, value its JSON."""

_TOGETHER = {"read": (SUBSCRIBE, RECEIVE, HISTORY, SEARCH), "all": ACTIONS}
_PLACEHOLDERS = {"{user}": "user", "{client}": "client"}
_LIKE_ONE = re.compile(r"\{\w*\}")


@dataclass(frozen=True)
class AccessRule:
    """A rule as it is written, in config.yaml and in JSON. Raises ValueError, with the name of what is wrong in front.

    One of ``allow`` and ``deny`` has the actions: publish, subscribe, receive, history, search, ``read`` for all but the first,
    ``all`` for all. ``topics`` are filters, in which {user} and {client} may stand; ``users`` are everybody where left out.
    """

    allow: str | list[str] | None = None
    deny: str | list[str] | None = None
    topics: str | list[str] | None = None
    users: str | list[str] | None = None

    def __post_init__(self) -> None:
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        if (self.allow is None) == (self.deny is None):
            yield "a rule needs either allow or deny, with what it allows or denies"
        for name in ("allow", "deny", "topics", "users"):
            if not self._some(name) and (name == "topics" or getattr(self, name) is not None):
                yield f"{name} must name something" + ("; leave it out for everybody" if name == "users" else "")
        for name in ("allow", "deny"):
            for action in self._some(name):
                if action not in ACTIONS and action not in _TOGETHER:
                    yield f"{name} {action!r} must be {', '.join(ACTIONS)}, read (all but publish) or all"
        yield from filter(None, map(_fault_of_filter, self._some("topics")))
        if not all(self._some("users")):
            yield "users '' must be a user name; leave users out for everybody"

    def _some(self, name: str) -> list[str]:
        value = getattr(self, name)
        return [value] if isinstance(value, str) else list(value or ())

    def actions(self) -> frozenset[str]:
        """What it allows or denies, each action by its name."""
        named = self._some("deny" if self.allow is None else "allow")
        return frozenset(action for name in named for action in _TOGETHER.get(name, (name,)))

    def compiled(self, place: str) -> Rule:
        """The rule that is asked. ``place``: where it was written, for who asks why."""
        return Rule(self.allow is not None, self.actions(), place, self.text())

    def parts(self) -> Iterator[tuple[list[Level], str | None]]:
        """(levels of a filter, user or None for everybody) of each that it names."""
        users: list[str | None] = [None] if self.users is None else [*self._some("users")]
        for filter in dict.fromkeys(self._some("topics")):
            levels = levels_of(filter, _PLACEHOLDERS)
            for user in dict.fromkeys(users):
                yield levels, user

    def written(self) -> dict[str, Any]:
        """As JSON, every value a list."""
        names = ("deny" if self.allow is None else "allow", "topics", *(() if self.users is None else ("users",)))
        return {name: self._some(name) for name in names}

    def text(self) -> str:
        """In words, for a person."""
        kind = "deny" if self.allow is None else "allow"
        users = "" if self.users is None else f" to {', '.join(self._some('users'))}"
        return f"{kind} {', '.join(self._some(kind))} on {', '.join(self._some('topics'))}{users}"

    @classmethod
    def parse(cls, written: object) -> AccessRule:
        """A rule from JSON. Raises ValueError."""
        if not isinstance(written, Mapping):
            raise ValueError("a rule must be an object")
        for name, value in written.items():
            if name not in cls.__dataclass_fields__:
                raise ValueError(f"{name!s}: unknown in a rule; there is {', '.join(cls.__dataclass_fields__)}")
            if not (isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))):
                raise ValueError(f"{name} must be text or a list of text")
        return cls(**written)


def _fault_of_filter(topics: str) -> str:
    try:
        validate_filter(topics)
    except ProtocolViolation as violation:
        return f"topics: {violation.text}"
    if topics.startswith("$share/"):
        return f"topics {topics!r} must be the filter behind $share/<group>/, which holds for shared ones too"
    unknown = next((text for text in _LIKE_ONE.findall(topics) if text not in _PLACEHOLDERS), None)
    return "" if unknown is None else f"topics {topics!r} must not have {unknown}: there is {{user}} and {{client}}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule: what it does to which actions, where it was written, and how it reads."""

    allow: bool
    actions: frozenset[str]
    place: str
    text: str


class Verdict(NamedTuple):
    """An answer, and the rule that decides; None where no rule allows it, or there are no rules."""

    allowed: bool
    rule: Rule | None
    why: str


class Source(Protocol):
    """What has an opinion: rules of ours, or a file of Mosquitto's."""

    @property
    def empty(self) -> bool:
        """Whether it has no rule at all."""

    def verdict(self, caller: Caller, action: str, topic: str) -> Verdict | None:
        """What it allows or denies; None where no rule of it is about that."""


def stored_place(key: str) -> str:
    """How a rule in storage is called where it decides."""
    return f"stored rule {key}"


class RuleSet:
    """Rules of ours, by the place where each was written."""

    def __init__(self, rules: Iterable[tuple[str, AccessRule]] = ()) -> None:
        """(place, rule) of each."""
        self._everybody: FilterTree[tuple[int, Rule]] = FilterTree()
        self._of_user: dict[str, FilterTree[tuple[int, Rule]]] = {}
        self._items: dict[str, tuple[tuple[int, Rule], AccessRule]] = {}
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
        item = (self._added, written.compiled(place))
        self._items[place] = (item, written)
        for levels, user in written.parts():
            (self._everybody if user is None else self._of_user.setdefault(user, FilterTree())).add(levels, item)

    def drop(self, place: str) -> None:
        """Forget the rule of this place, if there is one."""
        if place not in self._items:
            return
        item, written = self._items.pop(place)
        for levels, user in written.parts():
            tree = self._everybody if user is None else self._of_user[user]
            tree.remove(levels, item)
            if user is not None and tree.empty:
                del self._of_user[user]

    def verdict(self, caller: Caller, action: str, topic: str) -> Verdict | None:
        """As of `Source`. Of several rules that decide the same, the first is told."""
        found = self._everybody.covering(topic, caller)
        own = self._of_user.get(caller.user) if caller.user is not None else None
        if own is not None:
            found += own.covering(topic, caller)
        if not found:
            return None
        found.sort(key=_number)
        wanted = (SUBSCRIBE, RECEIVE) if action == RECEIVE else (action,)
        for _, rule in found:
            if not rule.allow and any(one in rule.actions for one in wanted):
                return Verdict(False, rule, f"denied by {rule.place}: {rule.text}")
        decisive = None
        for one in wanted:
            decisive = next((rule for _, rule in found if rule.allow and one in rule.actions), None)
            if decisive is None:
                return None
        assert decisive is not None
        return Verdict(True, decisive, f"allowed by {decisive.place}: {decisive.text}")


def _number(item: tuple[int, Rule]) -> int:
    return item[0]


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
    return Verdict(False, None, "no rule allows it") if there else Verdict(True, None, "there are no rules")
