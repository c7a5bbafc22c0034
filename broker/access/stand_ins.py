"""Topics that stand for others: a plugin gives those below a prefix of its own a meaning (`broker.hooks.GroupPlugin`), and who
may do something with one is who may do it with what it stands for. So `$delayed/5/chat/a` needs no access rule beside
that of `chat/a`, and neither does `$delayed/5/$typing/chat/a`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker.access.rule_set import Verdict
from broker.packets import reserved

DELAYED: Final = "$delayed/"
"""What is published below it waits, where a plugin has it stand for what is published later."""

StandsFor = Callable[[str, str], str | bool]
"""Given an action and a topic or filter below the prefix: what access is asked about in its place; or True where everybody may,
and False where nobody may."""


class StandIns:
    """What each prefix stands for."""

    def __init__(self) -> None:
        self._prefixes: dict[str, StandsFor] = {}

    def add(self, stand_ins: Mapping[str, StandsFor]) -> None:
        """From now on. A prefix is a first level that begins with ``$``, and its slash."""
        self._prefixes.update(stand_ins)

    def real(self, action: str, topic: str) -> str | bool:
        """What access is asked about: the topic itself, where it stands for none."""
        for prefix, real in self._prefixes.items():
            if topic.startswith(prefix):
                stands_for = real(action, topic)
                return stands_for if isinstance(stands_for, bool) else self.real(action, stands_for)
        return topic

    def closed(self, topic: str) -> str:
        """Why nobody may publish to a topic, whatever the rules say: what follows its name. Empty where that is not so."""
        if reserved(topic):
            return "is reserved for the broker"
        if topic.startswith(DELAYED) and DELAYED not in self._prefixes:
            return "needs a plugin that publishes later, and there is none"
        return ""


def settled(real: bool) -> Verdict:
    """What is said where no rule is asked, as `StandIns.real` knows the answer."""
    return Verdict(real, None, "such topics are everybody's" if real else "such topics are nobody's")
