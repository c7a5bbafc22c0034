"""Hooks: what a plugin of ours extends, beyond amqtt's plugin classes. This is the door for plugins.

Kept true: a hook that fails before the acknowledgement withholds it, and one that fails after it delays nothing.
"""

from broker.hooks.plugins import (
    REQUEST_TOPIC,
    Accepted,
    AuthExchange,
    AuthStart,
    Challenge,
    Denied,
    EnhancedAuthPlugin,
    Group,
    GroupPlugin,
    JobBusy,
    JobPlugin,
    NoSuchJob,
    Refusal,
    Request,
    RequestPlugin,
    StoragePlugin,
    SyncPlugin,
)

__all__ = [
    "REQUEST_TOPIC",
    "Accepted",
    "AuthExchange",
    "AuthStart",
    "Challenge",
    "Denied",
    "EnhancedAuthPlugin",
    "Group",
    "GroupPlugin",
    "JobBusy",
    "JobPlugin",
    "NoSuchJob",
    "Refusal",
    "Request",
    "RequestPlugin",
    "StoragePlugin",
    "SyncPlugin",
]
