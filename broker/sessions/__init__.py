"""Sessions from CONNECT to expiry: subscriptions, the in-flight window, wills, and readers without a connection.

Kept true: every change takes its place in the order of groups, and whoever holds an older session epoch changes nothing.
"""

from broker.sessions.channel import Channels, Member, member_device, member_key
from broker.sessions.connect_options import ConnectOptions
from broker.sessions.cursor import Cursor, Head
from broker.sessions.lifecycle import Read, Sessions
from broker.sessions.link import Link, OutboundPort
from broker.sessions.ports import Peers
from broker.sessions.retention_lock import RetentionLock
from broker.sessions.session import NOT_YET, Session
from broker.sessions.steps import disconnected_now
from broker.sessions.timeline import (
    DEVICE,
    INBOX,
    LIVE_ONLY,
    SETTLED,
    SHARED_END,
    Timeline,
    channel_filter,
    channel_inbox,
    group_inbox,
    is_channel,
    is_group,
    is_shared,
    member_of,
)
from broker.sessions.window import PUBLISHED_1, RELEASED, Slot

__all__ = [
    "DEVICE",
    "INBOX",
    "LIVE_ONLY",
    "NOT_YET",
    "PUBLISHED_1",
    "RELEASED",
    "SETTLED",
    "SHARED_END",
    "Channels",
    "ConnectOptions",
    "Cursor",
    "Head",
    "Link",
    "Member",
    "OutboundPort",
    "Peers",
    "Read",
    "RetentionLock",
    "Session",
    "Sessions",
    "Slot",
    "Timeline",
    "channel_filter",
    "channel_inbox",
    "disconnected_now",
    "group_inbox",
    "is_channel",
    "is_group",
    "is_shared",
    "member_device",
    "member_key",
    "member_of",
]
