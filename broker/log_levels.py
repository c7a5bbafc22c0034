"""The log's levels while the broker runs: of all of it, or of one logger. What is set so lasts until the restart."""

from __future__ import annotations

import logging

LEVELS = ("debug", "info", "warning", "error")
CHATTY = ("asyncio", "pymongo", "mongoengine", "urllib3", "apscheduler", "transitions", "uvicorn", "httpx")
"""Other packages' loggers, of which only warnings are wanted whatever the level is."""


def set_level(level: str) -> None:
    """Log everything at or above the level, and nothing of other packages' chatter."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class LogLevels:
    """What is asked for at run time."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def set(self, level: str, logger: str = "") -> None:
        """A logger's level, and so of those below it; of the whole log where it is empty. ``inherit`` takes a logger's own
        level from it. Raises `KeyError` for a logger that there is not."""
        if not logger:
            self._before.setdefault("", logging.getLogger().level)
            set_level(level)
            return
        if logger not in known():
            raise KeyError(logger)
        found = logging.getLogger(logger)
        self._before.setdefault(logger, found.level)
        found.setLevel(logging.NOTSET if level == "inherit" else level.upper())

    def current(self) -> tuple[str, dict[str, str]]:
        """The level of the whole log, and those of loggers that were given one of their own."""
        own = {name: logging.getLogger(name) for name in sorted(self._before) if name}
        return _name(logging.getLogger().level), {name: _name(one.level) for name, one in own.items() if one.level}

    def forget(self) -> None:
        """Put everything back, at the end."""
        for name, level in self._before.items():
            if name:
                logging.getLogger(name).setLevel(level)
            else:
                set_level(_name(level))
        self._before.clear()


def known() -> list[str]:
    """The loggers that there are, and what they are grouped by (``broker.net``)."""
    return sorted(logging.root.manager.loggerDict)


def _name(level: int) -> str:
    return logging.getLevelName(level).lower()
