"""Delivery: what a device is due, from memory or from storage, once and in order.

Kept true: laws 3 to 5 of the design. An offset moves only over what was acknowledged, and a backlog is in storage, never in
memory.
"""

from broker.delivery.delivery import Delivery
from broker.delivery.share import Share
from broker.delivery.shares import Shares

__all__ = ["Delivery", "Share", "Shares"]
