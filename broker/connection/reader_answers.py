"""What readers without a connection are told: of a device, of its inbox, and what is wrong (`session_readers`)."""

from __future__ import annotations

from typing import NamedTuple

from storage.records import InboxEntry


class DeviceProblem(Exception):
    """What was asked of a device cannot be done to it as it stands."""


class NoDevice(DeviceProblem):
    """There is no such durable device."""


class NoChannel(NoDevice):
    """The device has no place in such a channel."""


class Superseded(DeviceProblem):
    """A newer connection or reader has the device now."""


class Claim(NamedTuple):
    """A reader's hold on its device: ``epoch`` 0 where an MQTT connection has the device, and acknowledges."""

    epoch: int
    offset: int


class InboxPage(NamedTuple):
    """``entries`` are what is due; everything up to ``next`` was looked at. ``first`` and ``head`` are the first kept sequence
    and the last one, of the inbox or of the channel."""

    entries: list[InboxEntry]
    next: int
    first: int
    head: int


class ChannelPlace(NamedTuple):
    """Where a device stands in a channel, which ``filter`` names, and where that ends."""

    filter: str
    offset: int
    head: int
