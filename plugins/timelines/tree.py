"""The stored topics as a tree, a level at a time: what is asked of storage grows with the level, not with what is below it."""

from __future__ import annotations

from typing import NamedTuple

from storage.interface import Catalogue

_PASSED = 100
"""Topics of one level below that are read past before the next one is looked for."""
_LAST = chr(0x10FFFF)


class Level(NamedTuple):
    """What is right below a prefix: topics, as (name, first kept sequence, last), and levels, as prefixes that end in ``/``.

    ``next`` is the ``after`` of the next page; None at the end.
    """

    topics: list[tuple[str, int, int]]
    levels: list[str]
    next: str | None


async def level(storage: Catalogue, prefix: str, after: str, limit: int) -> Level:
    """Up to ``limit`` topics and levels that begin with ``prefix`` and come after ``after``, by name."""
    topics: list[tuple[str, int, int]] = []
    levels: list[str] = []
    found, place = after, after + _LAST if "/" in after[len(prefix) :] else after
    below, passed = "", 0
    while True:
        async for topic, first, last in storage.conversations(prefix, place):
            if below and topic.startswith(below):
                passed += 1
                if passed == _PASSED:
                    break
                continue
            if len(topics) + len(levels) == limit:
                return Level(topics, levels, found)
            name, slash, _ = topic[len(prefix) :].partition("/")
            if slash:
                found = below = f"{prefix}{name}/"
                levels.append(below)
                place = below + _LAST
            else:
                topics.append((topic, first, last))
                found = place = topic
            passed = 0
        else:
            return Level(topics, levels, None)
