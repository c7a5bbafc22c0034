"""What the broker tells Prometheus: the counters of the core, the state of the node, its storage and search, its process.

Kept true: the message path only adds to plain integers; all else is found out when somebody asks, and asking holds nothing up.
"""

from plugins.metrics.collector import Metrics, add_metrics
from plugins.metrics.table import BRIDGES, WEBHOOKS, Counted

__all__ = ["BRIDGES", "WEBHOOKS", "Counted", "Metrics", "add_metrics"]
