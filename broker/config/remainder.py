"""What is left of settings of which some are wrong, so that one `tideline check` finds what is wrong with the others too."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from broker.config.settings import Settings, cross_problems
from broker.config.sources import Path as Place
from broker.config.sources import Sources

_ROUNDS = 4
"""What is left out may leave a name twice, or a section without what it must have; no more hang on each other."""
_TELLING = {"name", "bind", "tls"}
"""Settings of a listener without which it would be another one."""


def remainder(sources: Sources) -> Settings | None:
    """The settings without those that are wrong: they have their defaults. A listener or plugin that would be another one by
    that is left out. None where nothing is left."""
    data: dict[str, Any] = deepcopy(sources.data)
    for _ in range(_ROUNDS):
        wrong = {_whole(path) for path, _ in cross_problems(data)}
        try:
            settings = Settings.model_validate(data)
        except ValidationError as error:
            wrong |= {_whole(detail["loc"]) for detail in error.errors() if detail["loc"]}
        else:
            settings._sources = sources
            return settings if data.get("listeners") else settings.model_copy(update={"listeners": []})
        for path in sorted(wrong, key=lambda path: [(isinstance(part, int), part) for part in path], reverse=True):
            _leave_out(data, path)
        if not data.get("listeners"):
            data.pop("listeners", None)
    return None


def _whole(path: Place) -> Place:
    """What goes where this is wrong."""
    if path[0] == "listeners" and path[2:3] and path[2] not in _TELLING:
        return path[:3]
    return path[:2]


def _leave_out(data: dict[str, Any], path: Place) -> None:
    within: Any = data
    for part in path[:-1]:
        within = within[part]
    if isinstance(within, dict):
        within.pop(path[-1], None)
    elif isinstance(within, list) and isinstance(path[-1], int):
        del within[path[-1]]
