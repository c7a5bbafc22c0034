"""Where rules lead what somebody publishes to a topic, as far as that is known without the message. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.rules.running import RunningRule
from plugins.rules.seen import NoJson, Seen, Unfilled


def led(rules: Sequence[RunningRule], topic: str, user: str, client: str) -> tuple[str, list[str]]:
    """The topic that it gets, and the names of the rules of which the message itself says whether, or where to. ``user`` is a
    user's name, or empty for a client that nobody verified."""
    seen = Seen(topic, f"u/{user}" if user else f"c/{client}", client, 0, False, b"", 0, 0)
    unsure = []
    for running in rules:
        filter_ = running.rule.filter_of(seen.topic)
        if running.rule.moves is None or filter_ is None:
            continue
        if running.rule.condition.text:
            unsure.append(running.rule.name)
            continue
        try:
            seen.topic = running.topic(running.rule.moves, seen.document(filter_))
        except (NoJson, Unfilled):
            unsure.append(running.rule.name)
    return seen.topic, unsure
