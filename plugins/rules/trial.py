"""The dry run: what each rule would do with a message, and why not. Nothing is published, stored or told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jsonpath_rfc9535 import JSONPathError

from plugins.rules.config import Rule
from plugins.rules.running import RunningRule
from plugins.rules.seen import NoJson, Seen, Unfilled


class Tried(NamedTuple):
    """What one rule does; nothing where ``why_not`` says so. ``failed``: it would be counted as a fault."""

    name: str
    does: list[str]
    why_not: str = ""
    failed: bool = False


class Trial(NamedTuple):
    """What all rules do, those that act before the store first, and the message that is then stored."""

    rules: list[Tried]
    topic: str
    payload: bytes


def trial(rules: Sequence[RunningRule], seen: Seen) -> Trial:
    """Try the rules on a message."""
    tried = [_tried(running, seen, _before) for running in rules if running.rule.before]
    tried += [_tried(running, seen, _after) for running in rules if running.rule.after]
    return Trial(tried, seen.topic, seen.payload)


def unseen(topic: str) -> str:
    """Why no rule ever sees a message that is published to this topic; empty where one may."""
    return f"{topic!r}: rules see no topic that begins with '$', which is for the broker" if topic.startswith("$") else ""


Act = Callable[[RunningRule, Seen, str], Iterator[str]]


def _tried(running: RunningRule, seen: Seen, act: Act) -> Tried:
    rule = running.rule
    try:
        filter_, why_not = _why_not(rule, seen)
        return Tried(rule.name, [] if why_not else [*act(running, seen, filter_)], why_not)
    except NoJson as error:
        return Tried(rule.name, [], str(error))
    except Unfilled as error:
        return Tried(rule.name, [], str(error), True)
    except (JSONPathError, RecursionError):
        return Tried(rule.name, [], "its condition cannot be looked at: the payload is nested too deeply", True)


def _why_not(rule: Rule, seen: Seen) -> tuple[str, str]:
    filter_ = rule.filter_of(seen.topic)
    if filter_ is None:
        return "", f"{seen.topic} matches none of its topics: {', '.join(rule.topics)}"
    if rule.condition.of_payload:
        seen.json()
    if not rule.condition.holds(seen.document(filter_)):
        return filter_, f"its condition does not hold: {rule.condition.text}"
    return filter_, ""


def _before(running: RunningRule, seen: Seen, filter_: str) -> Iterator[str]:
    topic, payload = seen.topic, seen.payload
    running.apply(seen, filter_)
    if seen.topic != topic:
        yield f"its topic becomes {seen.topic}"
    if seen.payload is not payload:
        yield f"its payload becomes {seen.payload.decode()}"


def _after(running: RunningRule, seen: Seen, filter_: str) -> Iterator[str]:
    rule = running.rule
    if rule.copies is not None:
        yield f"it is published again to {running.topic(rule.copies, seen.document(filter_))}"
    if rule.webhook is not None:
        yield rule.webhook.told
