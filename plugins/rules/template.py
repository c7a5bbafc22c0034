"""A text with places in braces, each a JSON path of the message (`Seen.document`): ``alarms/{levels[1]}``. No I/O."""

from __future__ import annotations

import math
from string import Formatter
from typing import Any

from jsonpath_rfc9535 import JSONPathError

from broker.packets import ProtocolViolation, validate_name
from plugins.rules.condition import ENVIRONMENT
from plugins.rules.seen import MEMBERS, Unfilled

LONGEST = 1000
"""Characters."""
_WHOLE = ("topic", "rest")
"""What may bring more than one level into a topic."""

_NEVER = {
    "$delayed/": "only who publishes a message can have it published later",
    "$share/": "a share is for who subscribes, and takes what is published to its topic",
}
"""Why topics that begin so are never a rule's."""


class Template:
    """Raises ValueError, which says what is wrong."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > LONGEST:
            raise ValueError(f"{text[:40]!r}… has {len(text)} characters; at most {LONGEST} are taken")
        try:
            pieces = [*Formatter().parse(text)]
        except ValueError:
            raise ValueError(f"{text!r}: braces must come in pairs; write {{{{ and }}}} for braces themselves") from None
        self._pieces = [
            (literal, None if path is None else _path(text, path, spec, kind)) for literal, path, spec, kind in pieces
        ]

    @property
    def literals(self) -> str:
        """What stands between the places."""
        return "".join(literal for literal, _ in self._pieces)

    def value(self, document: dict[str, Any]) -> Any:
        """Filled: text, or where the template is one place and nothing else, the value that is there. Raises `Unfilled`."""
        if len(self._pieces) == 1 and not self._pieces[0][0] and self._pieces[0][1] is not None:
            return self._pieces[0][1].find(document)
        return "".join(literal + ("" if place is None else place.text(document)) for literal, place in self._pieces)

    def topic(self, document: dict[str, Any]) -> str:
        """Filled, as a topic. Raises `Unfilled`."""
        made = "".join(literal + ("" if place is None else place.level(document)) for literal, place in self._pieces)
        try:
            validate_name(made)
            made.encode()
        except ProtocolViolation as violation:
            raise Unfilled(f"what {self.text!r} makes is no topic: {violation.text[:80]}") from None
        except UnicodeEncodeError:
            raise Unfilled(f"what {self.text!r} makes is no topic: it is not valid Unicode") from None
        if made.startswith("$"):
            raise Unfilled(f"what {self.text!r} makes begins with '$', which is for the broker")
        return made


def topic_template(text: str) -> Template:
    """A template of topics. Raises ValueError also where no message could make it one."""
    made = Template(text)
    if text.startswith("$"):
        own = text.rpartition("/")[2] or "{rest}"
        why = next((why for prefix, why in _NEVER.items() if text.startswith(prefix)), "that is for the broker")
        raise ValueError(f"{text!r}: must not begin with '$': {why}; right is a topic of your own, such as {f'moved/{own}'!r}")
    if sign := next((sign for sign in "+#\0" if sign in made.literals), ""):
        raise ValueError(f"{text!r}: a topic holds no {sign!r}; what it is taken from goes in braces, such as {{levels[0]}}")
    return made


class _Place:
    def __init__(self, path: str, query: Any) -> None:
        self._path = path
        self._query = query

    def find(self, document: dict[str, Any]) -> Any:
        found = self._query.find_one(document)
        if found is None:
            raise Unfilled(f"the message has no {{{self._path}}}")
        return found.value

    def text(self, document: dict[str, Any]) -> str:
        found = self.find(document)
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise Unfilled(f"{{{self._path}}} is neither text nor a number")
        return str(found)

    def level(self, document: dict[str, Any]) -> str:
        """As a level of a topic: whoever sends the message does not choose how many there are."""
        found = self.text(document)
        if not found or (self._path not in _WHOLE and any(sign in found for sign in "/+#\0")):
            raise Unfilled(f"{{{self._path}}} is no level of a topic: it is empty, or holds '/', '+', '#' or U+0000")
        return found


def _path(text: str, path: str, spec: str | None, conversion: str | None) -> _Place:
    if spec or conversion:
        raise ValueError(f"{text!r}: a place holds a JSON path and nothing else, such as {{payload.id}}")
    try:
        query = ENVIRONMENT.compile(f"$.{path}")
    except JSONPathError:
        raise ValueError(f"{text!r}: {{{path}}} is no JSON path; right is such as {{payload.id}} or {{levels[0]}}") from None
    if not query.singular_query():
        raise ValueError(f"{text!r}: {{{path}}} may name several values; it must name one")
    if (first := path.partition(".")[0].partition("[")[0]) not in MEMBERS:
        raise ValueError(f"{text!r}: a message has no {first!r}; it has {', '.join(MEMBERS)}")
    return _Place(path, query)


def filled(value: Any, document: dict[str, Any]) -> Any:
    """A JSON value with the templates in it filled. Raises `Unfilled`."""
    if isinstance(value, Template):
        return value.value(document)
    if isinstance(value, dict):
        return {name: filled(inner, document) for name, inner in value.items()}
    return [filled(inner, document) for inner in value] if isinstance(value, list) else value


def with_templates(value: Any) -> Any:
    """A JSON value whose texts are templates. Raises ValueError."""
    if isinstance(value, str):
        return Template(value)
    if isinstance(value, dict):
        return {str(name): with_templates(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_templates(inner) for inner in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{value!r}: must be a JSON value; put it in quotes")
