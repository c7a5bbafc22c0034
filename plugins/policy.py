"""What is kept of a topic: policies by topic filter, the first that matches wins.

- ``sync`` (the default): stored in the conversation, and in the inbox of every user that it is due to.
- ``store``: stored; delivered live only, to who is connected.
- ``none``: delivered live only, and forgotten. Topics that start with ``$`` are like this unless a policy names them.

With ``fanout: read``, of mode ``sync`` only, all readers of the filter's topics share one inbox, a channel: a message costs one
entry however many they are (docs/decisions/0012). With ``write``, the default, each user's inbox gets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from broker.packets import ProtocolViolation, matches, validate_filter

Mode = Literal["sync", "store", "none"]
Fanout = Literal["write", "read"]

_CACHED = 16_384  # topics; some 2 MB at most


@dataclass(frozen=True)
class Policy:
    """One line of config: a topic filter, and what is kept of the topics that match it."""

    filter: str
    mode: Mode = "sync"
    fanout: Fanout = "write"

    def __post_init__(self) -> None:
        try:
            validate_filter(self.filter)
        except ProtocolViolation as violation:
            raise ValueError(f"policies: {violation.text}") from violation
        if self.mode not in ("sync", "store", "none"):
            raise ValueError(f"policies: mode {self.mode!r} of {self.filter!r} must be sync, store or none")
        if self.fanout not in ("write", "read"):
            raise ValueError(f"policies: fanout {self.fanout!r} of {self.filter!r} must be write or read")
        if self.fanout == "read" and self.mode != "sync":
            problem = f"mode {self.mode!r} of {self.filter!r} makes no inbox entries, so fanout 'read' must be left out"
            raise ValueError(f"policies: {problem}")


class Policies(dict[str, Mode]):
    """What is kept of each topic, by its name: the answers for the topics in use.

    A dictionary that finds what it does not have, so that a message costs a look-up in it and no call.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        super().__init__()
        self._policies = tuple(policies)

    def __missing__(self, topic: str) -> Mode:
        if len(self) >= _CACHED:
            self.clear()  # cheaper, on average, than to keep the order of use
        mode = self[topic] = self._find(topic)
        return mode

    def _find(self, topic: str) -> Mode:
        policy = self.policy_of(topic)
        if policy is not None:
            return policy.mode
        return "none" if topic[0] == "$" else "sync"

    def policy_of(self, topic: str) -> Policy | None:
        """The policy that decides; None where none matches."""
        return next((policy for policy in self._policies if matches(policy.filter, topic)), None)

    @property
    def read_fanout(self) -> list[str]:
        """The filters with read fan-out."""
        return [policy.filter for policy in self._policies if policy.fanout == "read"]
