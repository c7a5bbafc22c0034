"""Questions to the broker over MQTT, and their answers: https://…/docs/sync.md of the broker."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from tideline_client.errors import NoAnswer, RequestFailed

TOPIC = "$sync/request"


class Requests:
    """``publish`` sends a payload to `TOPIC`; the answers come to `answered`, on the network's thread."""

    def __init__(self, publish: Callable[[bytes], None]) -> None:
        self._publish = publish
        self._ids = itertools.count(1)
        self._waiting: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._network: int | None = None

    def ask(self, fields: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer. Raises `RequestFailed`, and `NoAnswer` after ``timeout`` seconds. Not for callbacks, which the answer
        would wait for."""
        if threading.get_ident() == self._network:
            raise RuntimeError("a callback cannot wait for an answer: ask from a thread of the app's own")
        answers: SimpleQueue[dict[str, Any]] = SimpleQueue()
        number = self.send(fields, answers.put)
        try:
            answer = answers.get(timeout=timeout)
        except Empty:
            raise NoAnswer(f"{fields['op']}: no answer in {timeout:g} s") from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise RequestFailed(**answer["error"])
        return answer

    def send(self, fields: dict[str, Any], then: Callable[[dict[str, Any]], None]) -> int:
        """Ask, and have ``then`` called with the answer; the number of the request."""
        number = next(self._ids)
        self._waiting[number] = then
        self._publish(json.dumps({**fields, "id": number}).encode())
        return number

    def answered(self, payload: bytes) -> None:
        """An answer came."""
        self._network = threading.get_ident()
        answer = json.loads(payload)
        then = self._waiting.pop(answer.get("id"), None)
        if then is not None:
            then(answer)

    def lost(self) -> None:
        """The connection ended: what waits is not answered any more."""
        self._waiting.clear()
