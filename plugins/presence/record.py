"""What is stored of who is online, and what is told of it. No I/O.

| table | part | key | value |
|---|---|---|---|
| `presence` | a user | a device | whether it is online, since when, by which run of which node |
| `presence of` | a run | user and device | that this run has it online; `passing` of one that can never come back |
| `presence runs` | | a run | when it was last known to run (ms) |

A run is one life of a broker's process. What one leaves in the second table when it is killed, others set right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from storage.records import Row

DEVICES, OF, RUNS = "presence", "presence of", "presence runs"
PASSING = b"passing"
PREFIX = "$presence/"
MOST = 50
"""Devices of one user that are told: those that are online first, then those that were last."""
_BETWEEN = "\n"  # no client id or user name holds a control character
_ESCAPED = {"%": "%25", "+": "%2B", "#": "%23"}


class Device(NamedTuple):
    """``since``: when it came online, or went (ms)."""

    online: bool
    since: int
    run: str

    def encoded(self) -> bytes:
        """As it is stored."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def decoded(cls, value: bytes) -> Device:
        """Raises ValueError for what `encoded` did not write."""
        try:
            return cls(**json.loads(value))
        except TypeError as error:
            raise ValueError(str(error)) from error


def key_of(user: str, device: str) -> str:
    """The key of a device of a user among those of a run."""
    return f"{user}{_BETWEEN}{device}"


def parted(key: str) -> tuple[str, str]:
    """The other way round."""
    user, _, device = key.partition(_BETWEEN)
    return user, device


def topic_of(user: str) -> str:
    """Where a user's presence is told. What a topic name must not hold is percent-encoded."""
    return PREFIX + "".join(_ESCAPED.get(sign, sign) for sign in user)


def presence_of(user: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What is told of a user, given the rows of its devices."""
    known = [(Device.decoded(row.value), row.key) for row in rows]
    known.sort(key=lambda one: (not one[0].online, -one[0].since, one[1]))
    online = [device for device, _ in known if device.online]
    since = min((device.since for device in online), default=max((device.since for device, _ in known), default=None))
    devices = [{"device": name, "online": device.online, "since": device.since} for device, name in known[:MOST]]
    return {"user": user, "online": bool(online), "since": since, "devices": devices}
