"""Whether the timelines of an export are whole. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from storage.transfer.kinds import Record

_REGISTERED = {"entry": "inbox", "message": "conversation"}


class Sequences:
    """The last sequence of each timeline that went by. A gap is damage that no copy may spread."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, int]] = {"inbox": {}, "conversation": {}}

    def check(self, records: Iterable[Record]) -> None:
        """Raises ValueError with the timeline and the place of the first fault."""
        for record in records:
            kind = record[0]
            if kind in self._last:
                self._last[kind][record[1]] = record[2]
            elif (of := _REGISTERED.get(kind)) is not None:
                _, name, seq, *_ = record
                last = self._last[of].get(name)
                if last is None:
                    raise ValueError(f"{of} {name!r} is not told before its sequence {seq}")
                if seq != last + 1:
                    raise ValueError(f"{of} {name!r} has a gap: {seq} follows {last}")
                self._last[of][name] = seq
