"""Answers to requests that found nobody listening. No I/O."""

from __future__ import annotations

from collections import OrderedDict, deque

from storage.records import DeviceKey, Message

KEPT_SECONDS, KEPT_BYTES, KEPT_DEVICES = 60, 1 << 20, 1000


class Answers:
    """Answers that found nobody listening, by device: the newest ones, for a minute, bounded in bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[DeviceKey, deque[tuple[float, Message]]] = OrderedDict()

    def keep(self, device: DeviceKey, message: Message, now: float) -> None:
        """Keep an answer; the oldest of the device, or the device waiting longest, makes room."""
        waiting = self._kept.setdefault(device, deque())
        waiting.append((now, message))
        while len(waiting) > 1 and sum(len(m.payload) for _, m in waiting) > KEPT_BYTES:
            waiting.popleft()
        while len(self._kept) > KEPT_DEVICES:
            self._kept.popitem(last=False)
        for key in list(self._kept):
            if self._kept[key][-1][0] >= now - KEPT_SECONDS:
                break
            del self._kept[key]

    def take(self, device: DeviceKey, now: float) -> list[Message]:
        """The device listens: what waits for it."""
        return [message for at, message in self._kept.pop(device, ()) if at >= now - KEPT_SECONDS]
