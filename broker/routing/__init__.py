"""Routing: which sessions a topic is due to, and the last retained message of each topic. No I/O.

Kept true: a match costs the topic's levels, not the number of filters.
"""

from broker.routing.retained import Reading, Retained
from broker.routing.subscriptions import Subscriptions
from broker.routing.trie import Match, Trie

__all__ = ["Match", "Reading", "Retained", "Subscriptions", "Trie"]
