"""What a request on `$sync/request` may hold, and of which types. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from broker.config import shown
from plugins.timelines import Unprocessable
from plugins.timelines.fields import once, unknown

_MAX = (1 << 62) - 1

Word = TypeVar("Word", bound=str)


class Asked:
    """The fields of a request, with their types. Raises `Unprocessable`."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def operation(self, known: Mapping[str, Sequence[str]]) -> str:
        """What is asked for, one of those that are ``known``, each with what it takes beside ``op`` and ``id``. Raises for a
        field that it does not take, too."""
        operation = self.text("op")
        if operation not in known:
            raise Unprocessable(
                f"op {operation[:40]!r}: must be one of {', '.join(known)}; more with more plugins (docs/sync.md)"
            )
        for name in self._fields:
            if name not in ("op", "id", *known[operation]):
                raise unknown("field", name, known[operation])
        request_id = self._fields.get("id", 0)
        if not is_id(request_id):
            raise Unprocessable(f"id: {shown((), request_id)} must be a number, or text of at most 200 characters")
        return operation

    def has(self, name: str) -> bool:
        """Whether a field is given."""
        return name in self._fields

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise Unprocessable(f"{name}: {shown((), value)} must be text")
        return value

    def one_of(self, name: str, known: Sequence[Word], default: Word) -> Word:
        """One of a few words."""
        word = self.text(name, default)
        for one in known:
            if word == one:
                return one
        raise Unprocessable(f"{name} {word[:20]!r}: must be {', '.join(known[:-1])} or {known[-1]}")

    def any(self, name: str) -> Any:
        """Whatever it is, also null."""
        if name not in self._fields:
            raise Unprocessable(f"{name} is missing")
        return self._fields[name]

    def number(self, name: str, default: int | None = None, most: int = _MAX, least: int = 0) -> int:
        value = self._value(name, default)
        if type(value) is not int or not least <= value <= most:
            raise Unprocessable(f"{name}: {shown((), value)} must be a whole number of {least} to {most}")
        return value

    def flag(self, name: str, *, required: bool = False) -> bool:
        value = self._value(name, None if required else False)
        if not isinstance(value, bool):
            raise Unprocessable(f"{name}: {shown((), value)} must be true or false")
        return value

    def texts(self, name: str, most: int, default: list[str] | None = None) -> list[str]:
        """A list of at most ``most`` texts."""
        value = self._value(name, default)
        if not isinstance(value, list) or len(value) > most or not all(isinstance(one, str) for one in value):
            raise Unprocessable(f"{name}: {shown((), value)} must be a list of at most {most} texts")
        return value

    def given(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the fields that are there, as they are: for who looks at their types."""
        return {name: self._fields[name] for name in names if name in self._fields}

    def limit(self, most: int = 500, default: int = 50) -> int:
        return self.number("limit", default, most, 1)

    def _value(self, name: str, default: Any) -> Any:
        value = self._fields.get(name, default)
        if value is None and name not in self._fields:
            raise Unprocessable(f"{name} is missing")
        return value


def parsed(payload: bytes) -> dict[str, Any]:
    """The fields of a request's JSON object, at most 64 KiB. Raises `Unprocessable`."""
    if len(payload) > 64 << 10:
        raise Unprocessable("a request has at most 64 KiB")
    try:
        fields = json.loads(payload, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Unprocessable('a request is a JSON object, such as {"op": "history", "topic": "home/kitchen"}') from None
    if not isinstance(fields, dict):
        raise Unprocessable("a request is a JSON object")
    return fields


def is_id(value: Any) -> bool:
    """Whether a request may be named by this, so that its answer names it too."""
    if isinstance(value, str):
        return len(value) <= 200
    return type(value) is int or (type(value) is float and math.isfinite(value))
