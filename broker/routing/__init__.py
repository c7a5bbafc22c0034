"""Routing: which sessions a topic is due to, and the one way to subscribe. No I/O.

Kept true: a match costs the topic's levels, not the number of filters.
"""

from typing import Any

from broker.routing.channels import ChannelMembers
from broker.routing.subscriptions import Subscriptions, why_reserved
from broker.routing.trie import Match, Trie

__all__ = ["NOBODY", "ChannelMembers", "Match", "Subscriptions", "Trie", "why_reserved"]

NOBODY: Match[Any] = Match([])
"""Whom a message reaches that a plugin takes for itself."""
