"""Delivery: what a device is due, from memory or from storage, once and in order.

Kept true: laws 3 to 5 of the design. An offset moves only over what was acknowledged, and a backlog is in storage, never in
memory.
"""

from broker.delivery.arrivals import ArrivalLog
from broker.delivery.cluster_retained import ClusterRetained
from broker.delivery.delivery import Delivery
from broker.delivery.machine import Machine
from broker.delivery.shared_group import SharedGroup
from broker.delivery.shared_groups import SharedGroups

__all__ = ["ArrivalLog", "ClusterRetained", "Delivery", "Machine", "SharedGroup", "SharedGroups"]
