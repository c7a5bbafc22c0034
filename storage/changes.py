"""One change of the routes of a cluster: who is to get what, and which node has which device (`storage.cluster`)."""

from __future__ import annotations

from typing import NamedTuple

ADD = "+"
"""A device has a filter."""
REMOVE = "-"
"""A device has a filter no more."""
HELD = "@"
"""A node (``node``: its token; 0: none) has the device's connection, as of ``epoch``. A clean session's epoch is 0: of two
such changes the later one counts. Without a client id: the node that writes it waits for news of the user's inbox, as for a
reader over HTTP; or with ``node`` 0 does so no longer."""
ENDED = "x"
"""A device's session has ended, and nobody has it. In the same entry, before it: a `REMOVE` of each filter that it had, as
nodes know the devices of a filter, and not the filters of a device."""
LISTEN = "l"
"""A node has clean sessions with a filter: it wants what matches."""
UNLISTEN = "u"
"""It has none any more."""


class Change(NamedTuple):
    """One change of who is to get what. Of `ADD` and `REMOVE`: device, ``epoch`` and ``filter``; of `HELD` and `ENDED`: device,
    ``epoch``, ``node``; of `LISTEN` and `UNLISTEN`: ``filter``, ``node``. `storage.rules.changes` makes those of devices.

    What has an older epoch than a `HELD` of its device before it counts for nothing: it came late, of a node that has lost the
    device. A clean start tells `REMOVE` of each filter that the new session has not, once the device is written.
    """

    kind: str
    user: str = ""
    client_id: str = ""
    filter: str = ""
    epoch: int = 0
    node: int = 0
