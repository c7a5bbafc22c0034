"""What an export is made of. No I/O.

A record is a tuple: its kind, and the fields that `KINDS` lists. Inboxes and conversations come before their entries, and the
entries of one timeline by rising sequence, without a gap after the floor that was told last. A floor that is told again and
higher says that what was told below it was removed meanwhile.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, NamedTuple

Record = tuple[Any, ...]


class Kind(NamedTuple):
    """The fields of a kind of record by name, and of what type each is: ``s`` text, ``i`` integer, ``b`` bytes, ``o`` bytes or
    nothing, ``l`` a list."""

    names: tuple[str, ...]
    types: str


def _kind(fields: str) -> Kind:
    pairs = [field.split(":") for field in fields.split()]
    return Kind(tuple(name for name, _ in pairs), "".join(kind for _, kind in pairs))


_MESSAGE = "topic:s seq:i id:i user:s device:s time:i qos:i retain:i expires:i properties:b payload:b"

KINDS = {
    "device": _kind(
        "user:s client:s epoch:i expiry:i expires_at:i created_at:i offset:i cursor:i inflight:l subscriptions:l received:l"
        " will:o will_at:i"
    ),
    "setting": _kind("kind:s key:s value:b"),
    "row": _kind("table:s part:s key:s revision:i value:b"),
    "token": _kind("id:s digest:s user:s label:s created:i expires:i"),
    "job": _kind("name:s schedule:s next_run:i started:i ended:i outcome:s detail:s"),
    "once": _kind("user:s key:s digest:b message:i seq:i until:i"),
    "participant": _kind("user:s topic:s joined:i position:i"),
    "retained": _kind(_MESSAGE),
    "inbox": _kind("user:s floor:i"),
    "entry": _kind("user:s seq:i message:i target:s time:i size:i"),
    "conversation": _kind("topic:s floor:i floor_time:i"),
    "message": _kind(_MESSAGE),
    "id": _kind("node:i last:i"),
}
"""``inflight``: [packet id, sequence, state, timeline]; ``subscriptions``: [filter, options, identifier, since]; ``received``:
packet ids. ``time`` and ``size`` of an entry are its message's, 0 where that is gone. ``id``: the highest message id that was
ever given by a node."""


def to_json(record: Record) -> list[Any]:
    """A record as what JSON can hold: bytes as base64."""
    return [base64.b64encode(v).decode() if type(v) is bytes else v for v in record]


def from_json(found: Any) -> Record:
    """The record that `to_json` made this of. Raises ValueError with what is wrong."""
    if not isinstance(found, list) or not found or not isinstance(found[0], str) or found[0] not in KINDS:
        raise ValueError(f"{str(found)[:60]} is no record that is known here")
    name, *values = found
    kind = KINDS[name]
    if len(values) != len(kind.types):
        raise ValueError(f"{name} has {len(values)} fields, not {len(kind.types)}")
    return (name, *(_CHECKS[k](v, name, kind.names[n]) for n, (k, v) in enumerate(zip(kind.types, values, strict=True))))


def _of(type_: type, said: str) -> Callable[[Any, str, str], Any]:
    def checked(value: Any, name: str, field: str) -> Any:
        if type(value) is not type_:
            raise ValueError(f"{field} of {name} is {str(value)[:40]!r}, which is no {said}")
        return value

    return checked


def _bytes(value: Any, name: str, field: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ValueError(f"{field} of {name} is {str(value)[:40]!r}, which is no base64") from None


_CHECKS: dict[str, Callable[[Any, str, str], Any]] = {
    "s": _of(str, "text"),
    "i": _of(int, "integer"),
    "l": _of(list, "list"),
    "b": _bytes,
    "o": lambda value, name, field: None if value is None else _bytes(value, name, field),
}
