"""Who is online, since when, and who types.

Kept true: the last that was said of a user is what holds, and nobody stays online whose connections are gone, also where the
broker or its node was killed.

``record`` is what is stored and told, ``devices`` knows who is connected to this node, ``presence`` stores and tells it,
``cleaning`` does so for nodes that are gone; ``typing`` is what is told and not stored.
"""

from plugins.presence.plugin import PresencePlugin

__all__ = ["PresencePlugin"]
