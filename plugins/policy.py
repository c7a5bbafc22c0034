"""What is kept of a topic: policies by topic filter, the first that matches wins.

- ``sync`` (the default): stored in the conversation, and in the inbox of every user that it is due to.
- ``store``: stored; delivered live only, to who is connected.
- ``none``: delivered live only, and forgotten. Topics that start with ``$`` are like this unless a policy names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from broker.packets import ProtocolViolation, matches, validate_filter

Mode = Literal["sync", "store", "none"]

_CACHED = 100_000  # topics; some 10 MB at most


@dataclass(frozen=True)
class Policy:
    """One line of config: a topic filter, and what is kept of the topics that match it."""

    filter: str
    mode: Mode

    def __post_init__(self) -> None:
        try:
            validate_filter(self.filter)
        except ProtocolViolation as violation:
            raise ValueError(f"policies: {violation.text}") from violation
        if self.mode not in ("sync", "store", "none"):
            raise ValueError(f"policies: mode {self.mode!r} of {self.filter!r} must be sync, store or none")


class Policies:
    """Answers for topic names, and remembers its answers for the topics in use."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = tuple(policies)
        self._known: dict[str, Mode] = {}

    def mode(self, topic: str) -> Mode:
        """What is kept of a topic."""
        if not self._policies:
            return "none" if topic[0] == "$" else "sync"
        mode = self._known.get(topic)
        if mode is None:
            if len(self._known) >= _CACHED:
                self._known.clear()  # cheaper, on average, than to keep the order of use
            mode = self._known[topic] = self._find(topic)
        return mode

    def _find(self, topic: str) -> Mode:
        for policy in self._policies:
            if matches(policy.filter, topic):
                return policy.mode
        return "none" if topic[0] == "$" else "sync"
