"""What a policy takes from each message of a group. Apart from the plugin, as this is compiled (setup.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from storage.records import Append

if TYPE_CHECKING:
    from plugins.policy import Mode


def keep_as_told(appends: Sequence[Append], modes: dict[str, Mode]) -> None:
    """Take from each message what its topic's mode does not want kept."""
    topic: str | None = None
    mode: Mode = "sync"
    for append in appends:
        if append.message.topic is not topic:  # else as the message before it
            topic = append.message.topic
            mode = modes[topic]
        if mode != "sync":
            append.recipients = ()
            if mode == "none":
                append.store = False
