"""What is kept of an attachment. No I/O.

Its bytes are in pieces, which are never changed once they are durable. So the record alone says what has come: of two that
write at once, one record counts, and the other one's pieces are nobody's.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass, field, replace

PIECE = 4 << 20
"""Bytes of a piece, at most; also what one upload has in memory."""
SMALL = 512 << 10
"""A last piece that is smaller is written again with what follows, so that small steps do not make many pieces."""
MOST_PIECES = 4000

_ID = re.compile(r"[0-9a-f]{32}")


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether a text can be an attachment's id."""
    return _ID.fullmatch(text) is not None


@dataclass(slots=True)
class Record:
    """One attachment. Times are ms. ``pieces`` are (name, size), in order. ``message`` is the id of the message that has it, as
    hexadecimal digits, empty until one has; until then it ``expires``."""

    id: str
    topic: str
    user: str
    length: int
    created: int
    expires: int
    name: str = ""
    type: str = ""
    message: str = ""
    linked: int = 0
    """When a message got it."""
    pieces: list[tuple[str, int]] = field(default_factory=list)
    revision: int = 0
    """Of its row; 0 before there is one."""

    @property
    def offset(self) -> int:
        """How many bytes are durable."""
        return sum(size for _, size in self.pieces)

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return self.offset == self.length

    def next_piece(self) -> str:
        """The name of a piece that nobody else has."""
        return f"{self.id}/{len(self.pieces):04d}-{secrets.token_hex(4)}"

    def copy(self) -> Record:
        """One that may be changed, while this one is what is stored."""
        return replace(self, pieces=list(self.pieces))

    def encoded(self) -> bytes:
        """As its row's value."""
        fields = asdict(self)
        del fields["revision"]
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, value: bytes, revision: int) -> Record:
        """From a row."""
        fields = json.loads(value)
        fields["pieces"] = [(name, size) for name, size in fields["pieces"]]
        return cls(**fields, revision=revision)
