"""Access rules as they are written, in config.yaml and in JSON. What they say: `broker.access.rule_set`. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.access.filter_tree import Level, levels_of
from broker.access.rule_set import ACTIONS, HISTORY, RECEIVE, SEARCH, SUBSCRIBE, Rule
from broker.errors import refuse
from broker.packets import ProtocolViolation, validate_filter

RULE_KIND: Final = "rule"
"""The stored settings (`storage.records.Setting`) that are rules: key is a rule's id, value its JSON."""

_TOGETHER = {"read": (SUBSCRIBE, RECEIVE, HISTORY, SEARCH), "all": ACTIONS}
_PLACEHOLDERS = {"{user}": "user", "{client}": "client"}
_OURS = re.compile("|".join(map(re.escape, _PLACEHOLDERS)))
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

    def compiled(self, place: str, number: int) -> Rule:
        """The rule that is asked. ``place``: where it was written, for who asks why."""
        return Rule(self.allow is not None, self.actions(), place, self.text(), number)

    def parts(self) -> Iterator[tuple[list[Level], str | None]]:
        """(levels of a filter, user or None for everybody) of each that it names."""
        users: list[str | None] = [None] if self.users is None else [*self._some("users")]
        for filter in dict.fromkeys(self._some("topics")):
            levels = levels_of(filter, _PLACEHOLDERS)
            for user in dict.fromkeys(users):
                yield levels, user

    def doubts(self) -> Iterator[str]:
        """What was hardly meant, and may be: a topic can have braces of its own."""
        for topics in self._some("topics"):
            if re.search(r"[{}]", _OURS.sub("", topics)):
                yield f"topics {topics!r}: a {{ or }} of its own stands for itself; placeholders are {{user}} and {{client}}"

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


def stored_place(key: str) -> str:
    """How a rule in storage is called where it decides."""
    return f"stored rule {key}"


def led_elsewhere(topic: str, why: str) -> str:
    """What is said of a publish that a rule of messages (docs/rules.md) leads to another topic, and why that is decided so."""
    return f"a rule leads it to {topic}: {why}"


def maybe_led(rules: Sequence[str]) -> str:
    """What is added where rules may lead it elsewhere."""
    names = ", ".join(rules)
    return f"; where the message itself says so, {names} may lead it elsewhere: ask about that topic, too" if rules else ""
