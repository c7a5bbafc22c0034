"""Retained messages: the last one of each topic, in memory and in storage, until it expires.

Kept true: the pipeline never waits for storage to read one.
"""

from broker.retained.expiry import RetainedExpiry
from broker.retained.hidden import Hiding, hidden_of
from broker.retained.memory import Reading, Retained
from broker.retained.stored import StoredRetained

__all__ = ["Hiding", "Reading", "Retained", "RetainedExpiry", "StoredRetained", "hidden_of"]
