"""Where a query looks: its filters and permission, as parts of the search itself, so that nothing else is counted or ranked.

- Up to `TERMS` conversations, and a sender, are terms of the FTS expression;
- more conversations, as far as they can be listed, are a set that each match is joined with;
- where a wildcard spans more conversations than are worth listing, each match's conversation is looked at, once per query.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from plugins.search.engine import Query
from plugins.search.fts5_layout import Layout, term

TERMS = 128
"""Conversations that are filtered by as terms; more are joined, which from about 200 on is faster."""

LISTED = 5000
"""Conversations that a rule is asked about before the search; where there are more, it is asked about each match's."""


class Scope(NamedTuple):
    """Where a query looks: ``match`` is an FTS expression, ``no_match`` is taken from it, ``join`` is SQL over ``d``;
    ``nothing`` says that there is nothing, ``looks_up`` that ``join`` asks the function ``permitted`` about each match."""

    match: str = ""
    join: str = ""
    parameters: tuple[object, ...] = ()
    nothing: bool = False
    no_match: str = ""
    looks_up: bool = False
    earlier: bool = False
    """Whether the generation's tables are (`Layout`)."""

    def without(self, numbers: Sequence[int], matched: bool) -> Scope:
        """The same without some conversations. ``matched``: whether there is an FTS expression to take them from."""
        if not numbers:
            return self
        if matched and len(numbers) <= TERMS:
            return self._replace(no_match=f" NOT conversation : {_any_of(numbers, self.earlier)}")
        left = "d.conversation NOT IN (SELECT value FROM json_each(?))"
        join = f"{self.join} AND {left}" if self.join else left
        return self._replace(join=join, parameters=(*self.parameters, json.dumps(list(numbers))))


def scope_of(db: sqlite3.Connection, generation: int, layout: Layout, query: Query) -> Scope:
    """Where a query looks, by its filters and what it permits."""
    sender, earlier = "", layout.earlier
    if query.sender:
        row = db.execute(f"SELECT id FROM senders_{generation} WHERE name = ?", (query.sender,)).fetchone()
        if row is None:
            return Scope(nothing=True)
        sender = f'sender : "{term("s", row[0], earlier)}"'
    if not query.restricted:
        return Scope(match=sender, earlier=earlier)
    numbers = _listed(db, generation, query)
    if numbers is None:
        return Scope(sender, "permitted(d.conversation)", looks_up=True, earlier=earlier)
    if not numbers:
        return Scope(nothing=True)
    if len(numbers) <= TERMS:
        conversations = f"conversation : {_any_of(numbers, earlier)}"
        return Scope(" AND ".join(part for part in (conversations, sender) if part), earlier=earlier)
    return Scope(sender, "d.conversation IN (SELECT value FROM json_each(?))", (json.dumps(numbers),), earlier=earlier)


def _any_of(numbers: Sequence[int], earlier: bool) -> str:
    return "(" + " OR ".join(f'"{term("c", number, earlier)}"' for number in numbers) + ")"


def _listed(db: sqlite3.Connection, generation: int, query: Query) -> list[int] | None:
    """The numbers of the conversations that the query may see; None where they are too many to ask about."""
    table = f"conversations_{generation}"
    named = query.named_topics()
    if named is not None:
        sql = f"SELECT id, name FROM {table} WHERE name IN (SELECT value FROM json_each(?))"
        rows = db.execute(sql, (json.dumps(list(named)),)).fetchall()
    else:
        start = _literal(query.topic_filter)
        sql = f"SELECT id, name FROM {table} WHERE name >= ? AND name < ? LIMIT ?"
        rows = db.execute(sql, (start, start + "\U0010ffff", LISTED + 1)).fetchall()
        if len(rows) > LISTED:
            return None
    return [number for number, name in rows if query.permits(name)]


def _literal(topic_filter: str) -> str:
    """What every topic that the filter matches begins with."""
    levels = topic_filter.split("/")
    for at, level in enumerate(levels):
        if level in ("+", "#"):
            return "/".join(levels[:at])
    return topic_filter
