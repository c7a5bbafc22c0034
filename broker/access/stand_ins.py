"""Topics that stand for others: a plugin gives those below a prefix of its own a meaning, and who may do something with one is
who may do it with what it stands for. So `$delayed/5/chat/a` needs no access rule beside that of `chat/a`, and neither does
`$delayed/5/$typing/chat/a`."""

from __future__ import annotations

from collections.abc import Callable

DELAYED = "$delayed/"
"""What is published below it waits (`plugins.schedules`)."""

Real = Callable[[str, str], str | bool]
"""Given an action and a topic or filter below the prefix: what access is asked about in its place; or True where everybody may,
and False where nobody may."""


class StandIns:
    """What each prefix stands for."""

    def __init__(self) -> None:
        self._prefixes: dict[str, Real] = {}

    def add(self, prefix: str, real: Real) -> None:
        """From now on. ``prefix`` is a first level that begins with ``$``, and its slash."""
        self._prefixes[prefix] = real

    def real(self, action: str, topic: str) -> str | bool:
        """What access is asked about: the topic itself, where it stands for none."""
        for prefix, real in self._prefixes.items():
            if topic.startswith(prefix):
                stands_for = real(action, topic)
                return stands_for if isinstance(stands_for, bool) else self.real(action, stands_for)
        return topic

    def missing(self, topic: str) -> str:
        """What a topic needs that is not there: only a plugin can do what it promises. Empty where nothing is missing."""
        return "needs the plugin schedules" if topic.startswith(DELAYED) and DELAYED not in self._prefixes else ""
