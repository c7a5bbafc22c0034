"""What the broker tells Prometheus: the counters of the core, the state of the node, its storage and search, its process.

Kept true: the message path only adds to plain integers; all else is found out when somebody asks, and asking holds nothing up.
"""

from plugins.metrics.background import InBackground
from plugins.metrics.collector import Metrics, add_metrics, histogram_of
from plugins.metrics.table import BRIDGES, SCHEDULES, WEBHOOKS, Counted

__all__ = ["BRIDGES", "SCHEDULES", "WEBHOOKS", "Counted", "InBackground", "Metrics", "add_metrics", "histogram_of"]
