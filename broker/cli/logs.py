"""Where the log goes: standard error, as lines for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from broker.config import Log
from broker.log_levels import set_level

_FIELDS = ("client", "user", "address", "listener", "topic", "plugin")
"""What a line may be about, beside what it says: the ``extra`` of a call to a logger."""


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message, what it is about, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _FIELDS:
            if value := getattr(record, name, None):
                line[name] = str(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Text(logging.Formatter):
    """``12:00:00.123 warning broker.pipeline: …``, with control characters of clients' making escaped."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(sep=" ", timespec="milliseconds")
        text = f"{time[:23]} {record.levelname.lower():<7} {record.name}: {printable(record.getMessage())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def printable(text: str) -> str:
    """The same text on one line, with nothing that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def configure(settings: Log) -> None:
    """Send everything at or above the level to standard error, and nothing of other packages' chatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if settings.format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(settings.level)
    logging.captureWarnings(True)
