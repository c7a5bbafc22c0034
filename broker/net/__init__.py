"""Sockets: listeners for TCP, TLS and WebSocket.

Kept true: bytes reach the connection in order and whole, and a client that may not connect costs one socket for a moment.
"""

from broker.net.admission import RESERVE, Admission, raise_descriptor_limit
from broker.net.listeners import Listeners, advice
from broker.net.unix_socket import Taken, listening, remove

__all__ = ["RESERVE", "Admission", "Listeners", "Taken", "advice", "listening", "raise_descriptor_limit", "remove"]
