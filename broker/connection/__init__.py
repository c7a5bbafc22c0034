"""One client's connection: bytes in, packets to their handlers, answers out.

Kept true: packets are handled in the order in which they came, one fault closes one connection, and nothing is written above a
socket's high-water mark.
"""

from broker.connection.connection import Connection
from broker.connection.handle_publish import Inbound
from broker.connection.node import Node
from broker.connection.reader_steps import Operations
from broker.connection.session_readers import DeviceProblem, NoDevice, SessionReaders, Superseded
from broker.connection.storage_timeout import StorageTimeout

__all__ = [
    "Connection",
    "DeviceProblem",
    "Inbound",
    "NoDevice",
    "Node",
    "Operations",
    "SessionReaders",
    "StorageTimeout",
    "Superseded",
]
