"""Traces: what one client, user or topic does, for as long as somebody asks.

Kept true: where nobody asks, the message path pays for a look at `None`; and no payload is in a trace unless it was asked for,
nor ever a password.
"""

from broker.trace.trace import WAITING, Trace, Tracer

__all__ = ["WAITING", "Trace", "Tracer"]
