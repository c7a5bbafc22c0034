"""What one address, user or client may take of the broker: `Gate` for who comes, `Budget` for who publishes.

Kept true: whoever is over a limit waits or hears a reason code, is counted (``Counters.limit_…``), and costs bounded memory.
"""

from broker.limits.addresses import block_of
from broker.limits.buckets import Buckets
from broker.limits.budget import Budget
from broker.limits.gate import Gate, Place

__all__ = ["Buckets", "Budget", "Gate", "Place", "block_of"]
