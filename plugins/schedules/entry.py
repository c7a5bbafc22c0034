"""A message that waits, and what is stored of it. No I/O.

| table | part | key | value |
|---|---|---|---|
| `schedules` | the clock it is due by | when it is due (ms, 15 digits), a dot, its id | all of it |
| `schedules of` | its user | `id/` and its id | part and key of the row above |
| `schedules of` | its user | `key/` and a digest of the name that its publisher gave it | its id |

The first row is what counts: who finds one of the others without it passes over it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from storage.records import DropRow, Operation, PutRow

DUE, OF = "schedules", "schedules of"
"""The tables."""
ID, KEY = "id/", "key/"

Clock = Literal["steady", "wall"]
"""``steady``: what waits for some time, by `Services.now`; ``wall``: until a time that people name, by `Services.wall`
(docs/decisions/0007)."""
CLOCKS: tuple[Clock, ...] = ("steady", "wall")
NEVER = -1
"""The expiry of a message that does not expire."""


class Place(NamedTuple):
    """Where an entry is among those that are due."""

    clock: Clock
    key: str

    @property
    def due(self) -> int:
        """When (ms)."""
        return due_of(self.key)


def due_of(key: str) -> int:
    """When the entry of a key is due (ms)."""
    return int(key.partition(".")[0])


def before(due: int) -> str:
    """The key behind which all entries are that are due at that time or later."""
    return f"{max(0, due):015d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """``expiry``: seconds from when it is published, or `NEVER`. ``free``: no access rule is asked about it, as it is the
    operator's or the broker's own. ``repeat``: the interval or cron line (in ``timezone``) by which it comes again. ``name``:
    what its publisher called it, so that sending it again changes nothing."""

    id: str
    clock: Clock
    due: int
    user: str
    device: str
    topic: str
    payload: bytes
    qos: int
    retain: bool
    expiry: int
    properties: bytes
    free: bool = False
    repeat: str = ""
    timezone: str = ""
    name: str = ""

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.clock, f"{before(self.due)}.{self.id}")

    @property
    def once(self) -> str:
        """The idempotency key of its next publication."""
        return f"$schedule/{KEY}{self.name}" if self.name and not self.repeat else f"$schedule/{self.id}/{self.due}"

    @property
    def size(self) -> int:
        """Bytes of payload and properties."""
        return len(self.payload) + len(self.properties)

    # --- rows --------------------------------------------------------------------------------------------------------

    def puts(self) -> list[Operation]:
        """What stores it."""
        place = self.place
        rows: list[Operation] = [PutRow(OF, self.user, ID + self.id, f"{place.clock}/{place.key}".encode())]
        if self.name:
            rows.append(PutRow(OF, self.user, name_key(self.name), self.id.encode()))
        return [*rows, PutRow(DUE, place.clock, place.key, self.encoded())]

    def drops(self) -> list[Operation]:
        """What removes it; the row that counts comes first."""
        rows: list[Operation] = [DropRow(DUE, *self.place), DropRow(OF, self.user, ID + self.id)]
        return [*rows, DropRow(OF, self.user, name_key(self.name))] if self.name else rows

    def encoded(self) -> bytes:
        """All of it."""
        head_fields = {name: getattr(self, name) for name in _IN_HEAD}
        head = json.dumps({**head_fields, "body": len(self.payload)}).encode()
        return len(head).to_bytes(4) + head + self.payload + self.properties

    @classmethod
    def decoded(cls, value: bytes) -> Entry:
        """Raises ValueError for what was not written by `encoded`."""
        end = 4 + int.from_bytes(value[:4])
        try:
            head_fields = json.loads(value[4:end])
            body = end + head_fields.pop("body")
            return cls(**head_fields, payload=value[end:body], properties=value[body:])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(str(error)) from error


_IN_HEAD = tuple(field.name for field in fields(Entry) if field.name not in ("payload", "properties"))


def place_of(value: bytes) -> Place:
    """What a row of an id holds. Raises ValueError."""
    clock, _, key = value.decode().partition("/")
    if clock not in CLOCKS or not key:
        raise ValueError(f"{value[:100]!r} is no place of a schedule")
    return Place(clock, key)


def name_key(name: str) -> str:
    """The key of what its publisher called it."""
    return KEY + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
