"""What a restore, or an import, leaves with a device, in every backend. No I/O.

Its client may be ahead of the copy: it has subscribed, acknowledged and sent since. So it is told once that its session is
not present, and nothing counts as in flight on either side. The mark is in the epoch as it is stored: below 0 until the session
is opened for the first time. What it then begins after is above all epochs that were given before, so that what an older
connection or reader acknowledges late changes nothing.
"""

from __future__ import annotations

import secrets

from storage.records import DataEpoch


def new_epoch(restored: int = 0) -> DataEpoch:
    """Another one than any before. ``restored``: see `DataEpoch`."""
    return DataEpoch(secrets.token_hex(8), restored)


def marked(epoch: int, now: int) -> int:
    """What is stored for a restored device of this epoch; ``now`` in ms, as no counter of connections comes near it."""
    return -max(epoch, now) - 1


def unmarked(stored: int) -> int:
    """The epoch of a device as it is stored."""
    return stored if stored >= 0 else -stored - 1
