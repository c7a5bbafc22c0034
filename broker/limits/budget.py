"""How much one client may publish. No I/O.

Two buckets, of messages and of payload bytes. What came is always counted whole: a client that sent too much is in debt, and is
not read until that is paid. Nothing is dropped (law 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker.packets import Packet, Publish

_LEAST = 0.001
"""Seconds that are worth waiting."""


class Budget:
    """One connection's. ``rate`` is messages a second, ``bytes_rate`` payload bytes a second, each 0 for any number; ``burst``
    is for how many seconds a client may save. ``go_on`` is called when a debt is paid."""

    __slots__ = ("_burst", "_bytes", "_bytes_rate", "_go_on", "_messages", "_rate", "_seen", "over_bytes", "wheel_slot")

    def __init__(self, rate: float, bytes_rate: float, burst: float, now: float, go_on: Callable[[], None]) -> None:
        self._rate = rate
        self._bytes_rate = bytes_rate
        self._burst = burst
        self._messages = rate * burst
        self._bytes = bytes_rate * burst
        self._seen = now
        self._go_on = go_on
        self.over_bytes = False
        """Of which of the two the client last took too much."""
        self.wheel_slot = -1

    def spend(self, packets: Sequence[Packet], now: float) -> float:
        """These came: the seconds until the client may be read again, 0 for at once."""
        passed, self._seen = now - self._seen, now
        count = size = 0
        for packet in packets:
            if type(packet) is Publish:
                count += 1
                size += len(packet.payload)
        wait = bytes_wait = 0.0
        if self._rate:
            self._messages = min(self._rate * self._burst, self._messages + passed * self._rate) - count
            wait = max(0.0, -self._messages / self._rate)
        if self._bytes_rate:
            self._bytes = min(self._bytes_rate * self._burst, self._bytes + passed * self._bytes_rate) - size
            bytes_wait = max(0.0, -self._bytes / self._bytes_rate)
        self.over_bytes = bytes_wait > wait
        longest = max(wait, bytes_wait)
        return longest if longest >= _LEAST else 0.0

    def fire(self) -> None:
        """The debt is paid."""
        self._go_on()
