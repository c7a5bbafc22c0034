"""What is known of an erasure, as it is kept in a row of storage. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from storage.records import Row

TABLE = "erasures"
USER, CONVERSATION = "user", "conversation"
RUNNING, DONE = "running", "done"
PHASES = {
    USER: ("devices", "records", "messages", "retained", "inbox", "leftovers"),
    CONVERSATION: ("messages", "retained", "records"),
}
"""In their order. A user comes back no more before the messages are looked through, nor does what waits to be published for it.
``leftovers`` are records that were being written when the others were removed. Members of a conversation hear first what is
recalled, then are members no more."""


@dataclass(slots=True)
class Erasure:
    """``name`` is a user key or a topic. ``place`` is where the phase is, its own; times are ms.

    ``looked`` and ``recalled`` count messages, ``failed`` those that could not be recalled, which the log names. ``permille``
    is how much of the way through the messages is done, about.
    """

    what: str
    name: str
    requested: int
    state: str = RUNNING
    phase: str = ""
    place: dict[str, Any] = field(default_factory=dict)
    looked: int = 0
    recalled: int = 0
    failed: int = 0
    permille: int = 0
    ended: int = 0

    @property
    def key(self) -> str:
        """Its row's key."""
        return f"{self.what}:{self.name}"

    @property
    def value(self) -> bytes:
        """Its row's value."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def of(cls, row: Row) -> Erasure:
        """What a row says."""
        return cls(**json.loads(row.value))

    def go_on(self, now: Callable[[], int]) -> None:
        """The phase has ended: on to the next, or to the end."""
        phases = PHASES[self.what]
        behind = phases[phases.index(self.phase) + 1 :] if self.phase else phases
        self.place = {}
        if behind:
            self.phase = behind[0]
        else:
            self.state, self.permille, self.ended = DONE, 1000, now()

    def shown(self) -> dict[str, Any]:
        """For the operator."""
        fields = asdict(self)
        del fields["place"]
        return fields
