"""A message as a rule sees it: one JSON object, of which conditions and templates are JSON paths. No I/O."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from plugins.timelines.messages import json_value

MEMBERS = ("topic", "levels", "rest", "sender", "user", "client", "qos", "retain", "time", "payload")
"""Its members; ``payload`` only where that is JSON."""


class NoJson(ValueError):
    """The payload is no JSON, or not the JSON that is wanted. Its text has nothing of the payload."""


class Unfilled(ValueError):
    """What a rule makes of a message could not be made. Its text has nothing of the payload."""


class Seen:
    """``sender`` is a user key; ``time`` in ms. A payload of more than ``most`` bytes is not looked into."""

    def __init__(
        self, topic: str, sender: str, client: str, qos: int, retain: bool, payload: bytes, time: int, most: int
    ) -> None:
        self.topic = topic
        self.payload = payload
        self._sender = sender
        self._about = {"client": client, "qos": qos, "retain": retain}
        self._time = time
        self._most = most
        self._parsed: Any = None
        self._read = False

    def document(self, filter: str) -> dict[str, Any]:
        """The message, where ``filter`` is the one that matched it. Without ``payload`` where that is no JSON."""
        known = {**self._about, "topic": self.topic, "levels": self.topic.split("/"), "rest": _rest(filter, self.topic)}
        known["sender"] = self._sender
        known["user"] = self._sender[2:] if self._sender.startswith("u/") else None
        known["time"] = datetime.fromtimestamp(self._time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with suppress(NoJson):
            known["payload"] = self.json()
        return known

    def json(self) -> Any:
        """The payload as JSON. Raises `NoJson`."""
        if not self._read:
            self._read = True
            self._parsed = self._parse()
        if isinstance(self._parsed, NoJson):
            raise self._parsed
        return self._parsed

    def _parse(self) -> Any:
        if len(self.payload) > self._most:
            return NoJson(f"the payload has {len(self.payload)} bytes, and rules look into {self._most} at most (max_payload)")
        try:
            return json_value(self.payload.decode())
        except (ValueError, RecursionError):
            return NoJson("the payload is no JSON")

    def put(self, values: dict[str, Any]) -> None:
        """Lay members over the payload. Raises `NoJson` where that is no object, and `Unfilled` where it becomes too large."""
        known = self.json()
        if not isinstance(known, dict):
            raise NoJson("the payload is no JSON object")
        made = {**known, **values}
        payload = _dumped(made)
        if len(payload) > self._most:
            raise Unfilled(f"with what it sets the payload has {len(payload)} bytes, more than {self._most} (max_payload)")
        self._parsed, self.payload = made, payload


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and UTF-8 cannot hold
        return json.dumps(value, separators=(",", ":")).encode()


def _rest(filter: str, topic: str) -> str:
    """What the ``#`` of a filter stands for."""
    return "/".join(topic.split("/")[filter.count("/") :]) if filter.endswith("#") else ""
