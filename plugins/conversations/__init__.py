"""Conversations with members: who takes part is kept, not subscribed (docs/conversations.md, docs/decisions/0015).

Kept true: for who is not a member a conversation does not exist, and whoever is gets it on all of its devices.

A conversation is a topic below the plugin's prefix.

``model`` is what is kept, ``store`` keeps it, ``roles`` says who may do what, ``changes`` changes a membership step by step,
``checks`` looks at what callers say, ``service`` does it all, ``listing`` tells a user's own, ``values`` are drafts and
settings, ``plugin`` says yes or no to the broker, ``routes`` and ``requests`` are for callers.
"""

from plugins.conversations.plugin import ConversationsPlugin
from plugins.conversations.service import Conversations

__all__ = ["Conversations", "ConversationsPlugin"]
