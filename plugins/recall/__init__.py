"""Taking back what was published: a message that says which earlier ones of its topic it recalls.

Kept true: who recalls is the sender, or somebody who may; and a message that was not allowed to recall is not stored.
"""

from plugins.recall.moderators import add_moderator
from plugins.recall.plugin import RecallPlugin
from plugins.recall.records import add_eraser

__all__ = ["RecallPlugin", "add_eraser", "add_moderator"]
