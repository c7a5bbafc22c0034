"""One client's connection: bytes in, packets to their handlers, answers out.

Kept true: packets are handled in the order in which they came, one fault closes one connection, and nothing is written above a
socket's high-water mark.
"""
