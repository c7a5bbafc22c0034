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
_CHANNEL: Final = "r/"


def group_inbox(name: str, filter_: str) -> Timeline:
    """The inbox of a shared subscription's group; it is also the group's user key."""
    return Timeline(f"{_GROUP}{name}/{filter_}")


DEVICE: Final = "\0"
"""What follows the inbox in the name of a device (`member_of`). No user name and no client id has it [MQTT-1.5.4-2]."""


def member_of(user: str, client_id: str) -> str:
    """A device by one name, as the trie keeps those that nobody is connected to: its inbox, and the client id where the inbox
    may have several devices."""
    return f"{user}{DEVICE}{client_id}" if user.startswith(("u/", _CHANNEL)) else user


def is_group(user: str) -> bool:
    """Whether a user key is a group's."""
    return user.startswith(_GROUP)


def channel_inbox(filter_: str) -> Timeline:
    """The inbox that all readers of a filter with read fan-out share: a channel (docs/decisions/0012). Also its user key."""
    return Timeline(_CHANNEL + filter_)


def is_channel(user: str) -> bool:
    """Whether a user key, or the name of a timeline, is a channel's."""
    return user.startswith(_CHANNEL)


def is_shared(user: str) -> bool:
    """Whether a user key is nobody's: a group's, or a channel's, whose entries are for several users."""
    return user.startswith((_GROUP, _CHANNEL))


SHARED_END: Final = "s0"
"""The first user key that may be somebody's behind those: they are neighbours in the order of keys."""


def channel_filter(channel: str) -> str:
    """The filter of a channel."""
    return channel[len(_CHANNEL) :]
