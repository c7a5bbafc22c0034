"""What config.yaml says of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from broker.errors import Faults, fault_of, refuse
from broker.packets import ProtocolViolation, matches, parse_share, validate_filter
from plugins.rules.condition import Condition
from plugins.rules.template import Template, topic_template, with_templates
from plugins.tail_place import name_faults
from plugins.webhooks.config import CONNECTED, DISCONNECTED, Hook
from storage.records import Message

MOST = 100
"""Rules; topic filters of one; members that one sets."""


@dataclass(kw_only=True)
class RuleHook(Hook):
    """The webhook of a rule: a webhook as any, by the rule's name, filters and condition."""

    name: str = ""

    def __post_init__(self) -> None:
        self.meant: Callable[[Message], bool] | None = None
        refuse(self._left_out())

    def _left_out(self) -> Iterator[str]:
        if self.name:
            yield f"name {self.name[:70]!r}: leave it out, it is the rule's name"
        if self.filters != ["#"]:
            yield "filters: leave them out, they are the rule's topics"
        if self.of_clients:
            yield f"events: {CONNECTED} and {DISCONNECTED} have no message that a rule could look at"

    def belong_to(self, rule: Rule) -> list[str]:
        """Take the rule's name and filters; what is wrong with it then."""
        self.name, self.filters = rule.name, rule.topics
        try:
            super().__post_init__()
        except Faults as error:
            return error.faults
        return []

    def wants(self, message: Message) -> bool:
        return self.meant is not None and self.meant(message)

    @property
    def place(self) -> str:
        return f"rule:{self.name}:webhook"

    @property
    def told(self) -> str:
        """That it is told, by where it is: a query may hold a secret."""
        url = urlsplit(self.url)
        return f"{url.scheme}://{url.netloc}{url.path} is told of it"


@dataclass
class Rule:
    """One rule: which messages, and what is done with them."""

    name: str
    """What it is counted and kept under."""
    topics: list[str]
    """Topic filters: one must match."""
    where: str = ""
    """A condition, as JSONPath (RFC 9535) has them: ``@.payload.celsius > 30 && @.user == 'alice'``. Empty: always."""
    topic: str = ""
    """Before the message is stored: the topic that it gets."""
    set: dict[str, Any] = field(default_factory=dict)
    """Before the message is stored: members that its payload, a JSON object, gets."""
    republish: str = ""
    """Once the message is stored: the topic to which it is published again."""
    retain: bool = False
    """Whether what is published again is retained."""
    webhook: RuleHook | None = None
    """Once the message is stored: the service that is told, with the settings of a webhook (docs/webhooks.md)."""

    def __post_init__(self) -> None:
        refuse([*name_faults(self.name), *(f"{setting}: rule {self.name}: {text}" for setting, text in self._faults())])
        self.condition = Condition(self.where)
        self.moves = Template(self.topic) if self.topic else None
        self.sets = with_templates(self.set)
        self.copies = Template(self.republish) if self.republish else None

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Which setting, and what is wrong with it."""
        yield from (("topics", text) for text in self._topic_faults())
        checks: dict[str, Callable[[], object]] = {
            "where": lambda: Condition(self.where),
            "topic": lambda: topic_template(self.topic),
            "set": lambda: with_templates(self.set),
            "republish": lambda: topic_template(self.republish),
        }
        for setting, check in checks.items():
            yield from ((setting, text) for text in fault_of(check))
        if len(self.set) > MOST:
            yield "set", f"has {len(self.set)} members; at most {MOST} are taken"
        if self.before and self.after:
            text = "make two rules, the second one with the topics that the first one leads to"
            yield "topic", f"topic and set act before a message is stored, republish and webhook after that: {text}"
        if not self.before and not self.after:
            yield "name", "does nothing: it needs topic, set, republish or webhook"
        if self.retain and not self.republish:
            yield "retain", "is for what republish publishes"
        if self.republish and "{" not in self.republish and self.filter_of(self.republish) is not None:
            yield "republish", f"{self.republish!r} is among its own topics, so that it would go round in a circle"
        if self.webhook is not None:
            yield from (("webhook", text) for text in self.webhook.belong_to(self))

    def _topic_faults(self) -> Iterator[str]:
        if not 1 <= len(self.topics) <= MOST:
            yield f"must be 1 to {MOST} topic filters, such as sensors/+/temperature"
        for filter_ in self.topics:
            try:
                validate_filter(filter_)
                shared = parse_share(filter_)
            except ProtocolViolation as violation:
                yield violation.text
                continue
            if shared is not None or filter_.startswith("$"):
                yield f"{filter_[:80]!r}: must not begin with '$', which is for the broker"

    @property
    def before(self) -> bool:
        """Whether it acts before a message is stored."""
        return bool(self.topic or self.set)

    @property
    def after(self) -> bool:
        """Whether it acts once a message is stored."""
        return bool(self.republish or self.webhook)

    @property
    def does(self) -> list[str]:
        """What it does with a message, in words; places are not filled."""
        words = [
            self.topic and f"its topic becomes {self.topic}",
            self.set and f"its payload gets {', '.join(self.set)}",
            self.republish and f"it is published again to {self.republish}",
            self.webhook and self.webhook.told,
        ]
        return [str(said) for said in words if said]

    def filter_of(self, topic: str) -> str | None:
        """The first of its filters that matches; None where none does."""
        return next((filter_ for filter_ in self.topics if matches(filter_, topic)), None)
