"""What storage is asked about retained messages: those that memory has not, which expired, and how many there are.

Kept true: the pipeline never waits for any of it.
"""

from broker.retained.expiry import RetainedExpiry
from broker.retained.reader import StoredRetained

__all__ = ["RetainedExpiry", "StoredRetained"]
