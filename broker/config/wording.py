"""What is wrong with a value, in our words: of a setting, of a request's parameter, of a field in its body."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_MEANT = 0.6
"""How near a name must be to be the one that was meant, 0 to 1."""

_WANTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda ctx: "is missing",
    "int_type": lambda ctx: "must be a whole number",
    "int_parsing": lambda ctx: "must be a whole number",
    "int_parsing_size": lambda ctx: "must be a smaller number",
    "int_from_float": lambda ctx: "must be a whole number",
    "float_type": lambda ctx: "must be a number",
    "float_parsing": lambda ctx: "must be a number",
    "finite_number": lambda ctx: "must be a finite number",
    "bool_type": lambda ctx: "must be true or false",
    "bool_parsing": lambda ctx: "must be true or false",
    "string_type": lambda ctx: "must be text (put it in quotes)",
    "string_unicode": lambda ctx: "must be valid Unicode, without half of a surrogate pair",
    "list_type": lambda ctx: "must be a list",
    "dict_type": lambda ctx: "must be a mapping",
    "model_type": lambda ctx: "must be a mapping of settings",
    "model_attributes_type": lambda ctx: "must be an object",
    "is_instance_of": lambda ctx: "must be a file path",
    "greater_than": lambda ctx: f"must be more than {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']}",
    "literal_error": lambda ctx: f"must be {ctx['expected']}",
    "string_too_short": lambda ctx: "must not be empty",
    "string_too_long": lambda ctx: f"must have at most {ctx['max_length']} characters",
    "too_short": lambda ctx: f"needs at least {_items(ctx['min_length'])}",
    "too_long": lambda ctx: f"must have at most {_items(ctx['max_length'])}",
    "string_pattern_mismatch": lambda ctx: "must begin with '/'",
    "value_error": lambda ctx: str(ctx["error"]),
}


def wanted(detail: Mapping[str, Any]) -> str:
    """What would be right, of one of pydantic's findings: ``must be at most 500``."""
    words = _WANTED.get(detail["type"])
    return words(detail.get("ctx", {})) if words is not None else str(detail["msg"])


def suggest(name: str, known: Iterable[str], nothing: str = "there is none") -> str:
    """To follow "unknown": ``, did you mean 'x'?``, or ``; `` and what there is, or ``nothing`` where that is empty."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=_MEANT)
    if close:
        return f", did you mean {close[0]!r}?"
    return f"; there is {', '.join(names)}" if names else f"; {nothing}"


def listed(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _items(number: int) -> str:
    return "one item" if number == 1 else f"{number} items"
