"""A rule at work: whether it means a message, and how often it did. What goes wrong within it stays within it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from jsonpath_rfc9535 import JSONPathError

from broker.packets import shown
from broker.rate_limited_log import RateLimitedLog
from plugins.rules.config import Rule
from plugins.rules.seen import NoJson, Seen, Unfilled
from plugins.rules.template import Template, filled
from storage.records import Message

log = logging.getLogger("tideline.rules")

T = TypeVar("T")

COUNTS = ("matched", "faults", "not_json", "republished", "refused", "loops")


class RunningRule:
    """``most``: bytes of a payload that is looked into. ``levels``: of a topic, at most."""

    def __init__(self, rule: Rule, *, most: int, levels: int) -> None:
        self.rule = rule
        self._most = most
        self._levels = levels
        self._faults = RateLimitedLog(log, 10.0)
        self.matched = self.faults = self.not_json = self.republished = self.refused = self.loops = 0

    def counts(self) -> dict[str, int]:
        """How often each of `COUNTS` was, since this node started."""
        return {name: getattr(self, name) for name in COUNTS}

    def seen(self, message: Message, time: int) -> Seen:
        """A message as rules see it, of a time (ms)."""
        return Seen(message.topic, message.user, message.device, message.qos, message.retain, message.payload, time, self._most)

    # --- what it does, counted -----------------------------------------------------------------------------------------

    def means(self, message: Message) -> bool:
        """Whether a stored message is meant."""
        return self._guarded(lambda: self._meant(self.seen(message, message.time))) is not None

    def change(self, seen: Seen) -> None:
        """Give a message that arrives the topic and payload that the rule says, or leave it as it is."""

        def change() -> None:
            if (filter_ := self._meant(seen)) is not None:
                self.apply(seen, filter_)

        self._guarded(change)

    def copy_of(self, message: Message) -> str | None:
        """The topic that a stored message is published to again; None where the rule leaves it alone."""
        template = self.rule.copies
        seen = self.seen(message, message.time)

        def copy() -> str | None:
            filter_ = self._meant(seen) if template is not None else None
            return None if filter_ is None or template is None else self.topic(template, seen.document(filter_))

        return self._guarded(copy)

    def _meant(self, seen: Seen) -> str | None:
        """The filter by which the rule means a message; None where it does not."""
        filter_ = self.rule.filter_of(seen.topic)
        if filter_ is None:
            return None
        condition = self.rule.condition
        if condition.of_payload:
            seen.json()
        if condition.text and not condition.holds(seen.document(filter_)):
            return None
        self.matched += 1
        return filter_

    def _guarded(self, work: Callable[[], T | None]) -> T | None:
        """Do it; what goes wrong is counted, and the log is told why, and nothing of the payload."""
        try:
            return work()
        except NoJson:
            self.not_json += 1
        except (Unfilled, JSONPathError, RecursionError) as error:
            self.faults += 1
            why = str(error) if isinstance(error, Unfilled) else type(error).__name__
            self._faults.warning("rule %s failed for a message: %s", self.rule.name, why, key="fault")
        return None

    # --- what it does, plainly -----------------------------------------------------------------------------------------

    def apply(self, seen: Seen, filter_: str) -> None:
        """Change a message that is meant, by a filter. Raises `NoJson` and `Unfilled`, and has then changed nothing."""
        document = seen.document(filter_)
        topic = self.topic(self.rule.moves, document) if self.rule.moves is not None else seen.topic
        if self.rule.sets:
            seen.put(filled(self.rule.sets, document))
        seen.topic = topic

    def topic(self, template: Template, document: dict[str, Any]) -> str:
        """A topic of the message. Raises `Unfilled`."""
        made = template.topic(document)
        if made.count("/") >= self._levels:
            raise Unfilled(f"what {template.text!r} makes has more than {self._levels} levels (mqtt.max_topic_levels)")
        return made

    # --- what became of it ---------------------------------------------------------------------------------------------

    def loop(self, topic: str, hops: int) -> None:
        """A message has been through too many rules, and is not published again."""
        self.loops += 1
        text = "rule %s: a message on %s was through %d rules, and goes no further"
        self._faults.warning(text, self.rule.name, shown(topic), hops, key="loop")

    def refuse(self, error: Exception) -> None:
        """What the rule published again was refused, and never can be stored."""
        self.refused += 1
        self._faults.warning("rule %s: what it publishes again was refused: %s", self.rule.name, error, key="refused")
