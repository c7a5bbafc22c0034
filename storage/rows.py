"""Many small records that no broker holds in memory, of which a plugin keeps what it wants. Records and operations, no I/O.

A row is found by three names: ``table`` says what it is, ``part`` which list it is in, ``key`` which one of that list. A part
is read in pages, by key. What administrators keep is little, and is held in memory: see `storage.settings`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from storage.messages import Append

MAX_ROW = 1 << 20
"""Bytes of a row's value, at most."""
MAX_ROW_NAME = 65_535
"""Bytes of each of a row's names, at most: any topic can be one."""


Named = Callable[[int], tuple[str, bytes]]


class RowKey(NamedTuple):
    """The names of a row."""

    table: str
    part: str
    key: str


class Row(NamedTuple):
    """A row as it is. ``revision`` is above 0, and a higher one after each write: also where it was dropped and put again."""

    table: str
    part: str
    key: str
    value: bytes
    revision: int


@dataclass(slots=True, eq=False)
class PutRow:
    """Add a row, or replace the one that is there.

    ``expected``: the revision that it must have, 0 where it must not be there; None takes whatever is there. At another one the
    ``error`` is a `storage.errors.RowChanged`. Refused are a value larger than `MAX_ROW`,
    a name longer than `MAX_ROW_NAME`, and a key without a character.

    ``purges``: what was removed by then, by other commits too, is to leave the backend's own files soon.

    ``of``: a message that the same group stores before this, and that this row says something of. Whatever is killed meanwhile:
    where the message is stored, the row is written too. Where it is refused, or a repeat of another, the row stays as it is.
    Where it turns out to be one that another node began with, by its name, it has that one's id by then. A row that has the id
    in it is to be made by `naming`; any other stays as it is, whatever digits are in it.

    ``named``: given the message's id, what ``key`` and ``value`` are; None where they do not depend on it.

    Filled by commit: ``revision``, which the row has now; 0 where it stays as it is.
    """

    table: str
    part: str
    key: str
    value: bytes
    expected: int | None = None
    revision: int = 0
    error: Exception | None = None
    purges: bool = False
    of: Append | None = None
    named: Named | None = None

    @classmethod
    def naming(cls, of: Append, table: str, part: str, named: Named, expected: int | None = None) -> PutRow:
        """One that says something of a message, whose id is in its key or value."""
        return cls(table, part, *named(of.message.id), expected, of=of, named=named)

    def name(self, id: int) -> None:
        """Its message has this id by now."""
        if self.named is not None:
            self.key, self.value = self.named(id)


@dataclass(slots=True, eq=False)
class DropRow:
    """Forget a row; one that is not there is passed over, whatever was expected. ``of`` is as in `PutRow`; its key may not
    depend on the message's id.

    Filled by commit: ``revision``, that of this removal; 0 where there was nothing to remove.
    """

    table: str
    part: str
    key: str
    expected: int | None = None
    revision: int = 0
    error: Exception | None = None
    of: Append | None = None
