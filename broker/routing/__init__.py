"""Routing: which sessions a topic is due to, and the one way to subscribe. No I/O.

Kept true: a match costs the topic's levels, not the number of filters.
"""

from broker.routing.channels import ChannelMembers
from broker.routing.subscriptions import Subscriptions
from broker.routing.trie import Match, Trie

__all__ = ["ChannelMembers", "Match", "Subscriptions", "Trie"]
