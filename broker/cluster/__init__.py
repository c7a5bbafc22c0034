"""This node's part in a cluster: who gets what across nodes, and what nodes tell each other (docs/decisions/0011).

Kept true: what one node has promised binds all. A device is on one node at a time, and what a dead node left half done is
finished once, by another.

Nodes know only the database. Nothing here is made where storage serves one node.
"""

from broker.cluster.cluster import Cluster
from broker.cluster.mailbox import AskFailed
from broker.cluster.shared_settings import shared_settings

__all__ = ["AskFailed", "Cluster", "shared_settings"]
