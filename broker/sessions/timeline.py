"""The names of timelines: the one home of what would else be bare strings.

A device's in-flight messages say which timeline they are of. Storage keeps these names, so none of them may change.
"""

from __future__ import annotations

from typing import Final, NewType

Timeline = NewType("Timeline", str)

INBOX: Final = Timeline("")
"""The inbox of the device's own user."""

LIVE_ONLY: Final = Timeline("~")
"""Of messages that no timeline holds; they end with the connection."""

SETTLED: Final = Timeline(".")
"""Of what is finished as far as the offset goes, while its packet identifier is still in use."""

_GROUP: Final = "s/"


def group_inbox(name: str, filter_: str) -> Timeline:
    """The inbox of a shared subscription's group; it is also the group's user key."""
    return Timeline(f"{_GROUP}{name}/{filter_}")


def is_group(user: str) -> bool:
    """Whether a user key is a group's."""
    return user.startswith(_GROUP)
