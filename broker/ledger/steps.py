"""When a device's offset and cursor were where: some steps, of which the older ones are merged. No I/O.

A step says that at its time the device stood at an offset and a cursor. Two steps around an entry say between which times it
was delivered, or acknowledged. There are at most `MOST` steps: what is older is told less exactly.
"""

from __future__ import annotations

import json
from typing import NamedTuple

MOST = 64
"""Steps of a device: some 700 bytes."""


class Step(NamedTuple):
    """``at`` is a time in ms."""

    offset: int
    cursor: int
    at: int


class Between(NamedTuple):
    """It happened after the one time and at or before the other (ms). 0: nothing is known of that side."""

    after: int
    until: int

    def from_(self, time: int) -> Between:
        """The same, where nothing can have happened before ``time``."""
        return Between(max(self.after, time), self.until)


class Steps:
    """The steps of one device, by rising time."""

    def __init__(self, steps: list[Step] | None = None) -> None:
        self.steps = steps or []

    def add(self, step: Step) -> None:
        """The newest one. Where the offset was set back, what it had passed is to come again, and the steps there are void."""
        steps = self.steps
        while steps and (steps[-1].cursor > step.cursor or steps[-1].offset > step.offset):
            steps.pop()
        if steps and steps[-1][:2] == step[:2] and len(steps) > 1 and steps[-2][:2] == step[:2]:
            steps.pop()  # it stands there since the first of these, and until the last
        steps.append(step)
        if len(steps) > MOST:
            self._merge()

    def _merge(self) -> None:
        """Leave out the step whose neighbours are nearest to one another, for their age."""
        steps, now = self.steps, self.steps[-1].at
        gaps = ((steps[k + 1].at - steps[k - 1].at) / (now - steps[k].at + 1) for k in range(1, len(steps) - 1))
        place = min(enumerate(gaps, 1), key=lambda pair: pair[1])[0]
        del steps[place]

    def forget(self, before: int) -> None:
        """Drop what is older than a time, but for the last such step: it stands before what follows."""
        old = sum(1 for step in self.steps if step.at < before)
        del self.steps[: max(0, old - 1)]

    def delivered(self, entry: int) -> Between:
        """When the cursor passed an entry."""
        before = [step.at for step in self.steps if step.cursor < entry]
        behind = (step.at for step in self.steps if step.cursor >= entry)
        return Between(before[-1] if before else 0, next(behind, 0))

    def acknowledged(self, entry: int) -> Between:
        """When the entry was acknowledged. It may have been before those in front of it, so it was at any time since it was
        delivered."""
        behind = (step.at for step in self.steps if step.offset >= entry)
        return Between(self.delivered(entry).after, next(behind, 0))

    def packed(self) -> bytes:
        """As a row keeps it: JSON of differences."""
        rows, before = [], Step(0, 0, 0)
        for step in self.steps:
            rows.append([step.offset - before.offset, step.cursor - before.cursor, step.at - before.at])
            before = step
        return json.dumps(rows, separators=(",", ":")).encode()

    @classmethod
    def unpacked(cls, data: bytes) -> Steps:
        """What `packed` made."""
        steps, last = [], Step(0, 0, 0)
        for offset, cursor, at in json.loads(data):
            last = Step(last.offset + offset, last.cursor + cursor, last.at + at)
            steps.append(last)
        return cls(steps)
