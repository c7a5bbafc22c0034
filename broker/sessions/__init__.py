"""Sessions from CONNECT to expiry: subscriptions, the in-flight window, wills, and readers without a connection.

Kept true: every change takes its place in the order of groups, and whoever holds an older session epoch changes nothing.
"""

from broker.sessions.cursor import Cursor, Head
from broker.sessions.link import Link, OutboundPort
from broker.sessions.old_end import OldEnd
from broker.sessions.session import NOT_YET, Session
from broker.sessions.sessions import Sessions
from broker.sessions.timeline import INBOX, LIVE_ONLY, SETTLED, Timeline, group_inbox
from broker.sessions.window import PUBLISHED_1, RELEASED, Slot
from broker.sessions.wishes import Wishes

__all__ = [
    "INBOX",
    "LIVE_ONLY",
    "NOT_YET",
    "PUBLISHED_1",
    "RELEASED",
    "SETTLED",
    "Cursor",
    "Head",
    "Link",
    "OldEnd",
    "OutboundPort",
    "Session",
    "Sessions",
    "Slot",
    "Timeline",
    "Wishes",
    "group_inbox",
]
