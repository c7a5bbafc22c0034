"""Topic filters of access rules, compiled: which of many cover a topic name, or a filter that somebody subscribes to. No I/O.

Compiled (setup.py), as `broker.access.rule_set` is.

- A filter *covers* another if it matches every topic name that the other matches. A name is covered by what matches it.
- ``#`` covers the levels from its own on, none included; ``+`` one level, or a ``+``; a level covers itself.
- A filter that begins with a wildcard covers nothing that begins with ``$`` [MQTT-4.7.2-1].
- A placeholder stands for one level, or a part of one. A value that would add a level or a wildcard, or that makes the first
  level begin with ``$``, covers nothing; nor does one that is missing or empty. So nobody gains by the choice of a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Caller:
    """Who is asked about. ``user`` is a verified user name, or None; ``client`` is None where there is no client id (HTTP)."""

    __slots__ = ("client", "user")

    def __init__(self, user: str | None = None, client: str | None = None) -> None:
        self.user = user
        self.client = client


class Template:
    """A level with placeholders: ``texts`` and, between them, what they stand for: ``user`` or ``client``."""

    __slots__ = ("names", "texts")

    def __init__(self, texts: tuple[str, ...], names: tuple[str, ...]) -> None:
        self.texts = texts
        self.names = names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.texts == other.texts and self.names == other.names

    def __hash__(self) -> int:
        return hash((self.texts, self.names))

    def level(self, caller: Caller, *, first: bool = False) -> str | None:
        """The level for this caller; None where there can be none. ``first``: it is the first level."""
        level = self.texts[0]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            value = caller.user if name == "user" else caller.client
            if not value or (first and not level and value[0] == "$"):
                return None
            level += value + text
        return level


Level = str | Template


def levels_of(filter: str, placeholders: Mapping[str, str]) -> list[Level]:
    """The levels of a filter in which ``placeholders`` (text → user or client) may stand."""
    if not placeholders:
        return list(filter.split("/"))
    parts = re.compile("|".join(map(re.escape, placeholders)))
    found: list[Level] = []
    for level in filter.split("/"):
        names = [placeholders[text] for text in parts.findall(level)]
        found.append(Template(tuple(parts.split(level)), tuple(names)) if names else level)
    return found


class _Node(Generic[T]):
    __slots__ = ("children", "ends", "rest", "templates")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.templates: dict[Template, _Node[T]] = {}
        self.ends: list[T] = []
        self.rest: list[T] = []
        """Of filters that have ``#`` here."""

    @property
    def empty(self) -> bool:
        return not (self.children or self.templates or self.ends or self.rest)


class FilterTree(Generic[T]):
    """Filters, each with what it is for."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    @property
    def empty(self) -> bool:
        """Whether there is no filter."""
        return self._root.empty

    def add(self, levels: Sequence[Level], item: T) -> None:
        """Add a filter that `broker.packets.validate_filter` accepts."""
        node = self._root
        for level in levels:
            if level == "#":
                node.rest.append(item)
                return
            if isinstance(level, Template):
                node = node.templates.setdefault(level, _Node())
            else:
                node = node.children.setdefault(level, _Node())
        node.ends.append(item)

    def remove(self, levels: Sequence[Level], item: T) -> None:
        """Remove what was added. Raises KeyError or ValueError where it was not."""
        way = [self._root]
        for level in levels:
            if level == "#":
                break
            node = way[-1]
            way.append(node.templates[level] if isinstance(level, Template) else node.children[level])
        (way[-1].rest if levels[-1] == "#" else way[-1].ends).remove(item)
        for level, node, above in zip(reversed(levels[: len(way) - 1]), reversed(way), reversed(way[:-1]), strict=False):
            if not node.empty:
                return
            if isinstance(level, Template):
                del above.templates[level]
            else:
                del above.children[level]

    def covering(self, filter: str, caller: Caller) -> list[T]:
        """What is there for all filters that cover a valid topic name or filter, in no order."""
        levels = filter.split("/")
        if filter == "#":
            levels = ["+", "#"]  # a name has at least one level
        wild = filter[0] != "$"
        found: list[T] = []
        nodes = [self._root]
        for depth, level in enumerate(levels):
            reached: list[_Node[T]] = []
            for node in nodes:
                if wild:
                    found += node.rest
                    if level != "#" and (other := node.children.get("+")) is not None:
                        reached.append(other)
                if level in ("+", "#"):
                    continue  # a name that is one of these fills no placeholder; one with "/" equals no level
                if (other := node.children.get(level)) is not None:
                    reached.append(other)
                if node.templates:
                    for template, other in node.templates.items():
                        if template.level(caller, first=not depth) == level:
                            reached.append(other)
            if not reached:
                return found
            nodes, wild = reached, True
        for node in nodes:
            found += node.ends
            found += node.rest  # "a/#" matches "a" too
        return found
