"""Sockets: listeners for TCP, TLS and WebSocket.

Kept true: bytes reach the connection in order and whole, and a client that may not connect costs one socket for a moment.
"""
