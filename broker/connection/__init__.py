"""One client's connection: bytes in, packets to their handlers, answers out.

Kept true: packets are handled in the order in which they came, one fault closes one connection, and nothing is written above a
socket's high-water mark.
"""

from broker.connection.connection import Connection
from broker.connection.handle_connect import ban_of
from broker.connection.handle_publish import Inbound, NotAuthorized
from broker.connection.node import Clustered, Node, NodeState, NoSuchNode
from broker.connection.passing import passing
from broker.connection.reader_answers import ChannelPlace, Claim, DeviceProblem, InboxPage, NoChannel, NoDevice, Superseded
from broker.connection.revoking import end_connections
from broker.connection.session_readers import SessionReaders
from broker.connection.storage_timeout import StorageTimeout

__all__ = [
    "ChannelPlace",
    "Claim",
    "Clustered",
    "Connection",
    "DeviceProblem",
    "Inbound",
    "InboxPage",
    "NoChannel",
    "NoDevice",
    "NoSuchNode",
    "Node",
    "NodeState",
    "NotAuthorized",
    "SessionReaders",
    "StorageTimeout",
    "Superseded",
    "ban_of",
    "end_connections",
    "passing",
]
