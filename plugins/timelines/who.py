"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.access import SessionInfo

OPERATOR = "b/operator"
"""The user key of messages and read positions of an operator that acts for nobody."""


@dataclass(frozen=True, slots=True)
class Who:
    """A caller: a user key, and what the topic plugins are asked with. An operator may do everything."""

    user: str
    info: SessionInfo | None = field(default=None, compare=False, repr=False)
    operator: bool = False
    until: int = field(default=0, compare=False)
    """When the token that it showed ends, in ms of the server's time; 0 is never."""

    @property
    def asked(self) -> SessionInfo | None:
        """Who the topic plugins are asked about; None where nobody has to be."""
        return None if self.operator else self.info
