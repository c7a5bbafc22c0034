"""What a policy takes from each message of a group. Apart from the plugin, as this is compiled (setup.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.records import Append

if TYPE_CHECKING:
    from plugins.policy import Mode


def keep_as_told(appends: Sequence[Append], modes: dict[str, Mode]) -> None:
    """Take from each message what its topic's mode does not want kept."""
    for append in appends:
        mode = modes[append.message.topic]
        if mode != "sync":
            append.recipients = ()
            if mode == "none":
                append.store = False
