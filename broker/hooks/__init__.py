"""Hooks: what a plugin of ours extends, beyond amqtt's plugin classes. This is the door for plugins.

Kept true: a hook that fails before the acknowledgement withholds it, and one that fails after it delays nothing.
"""

from broker.hooks.group import Group
from broker.hooks.group_hooks import GroupHooks, HookFailed
from broker.hooks.plain import never_awaited
from broker.hooks.plugins import (
    ONLY_ONE,
    REQUEST_TOPIC,
    Accepted,
    AuthExchange,
    AuthStart,
    Challenge,
    Denied,
    EnhancedAuthPlugin,
    GroupPlugin,
    GroupTimes,
    JobBusy,
    JobPlugin,
    NoSuchJob,
    Refusal,
    Request,
    RequestPlugin,
    SessionPlugin,
    SpanPlugin,
    StoragePlugin,
    SyncPlugin,
    readers_of,
)
from broker.hooks.users import Imported, NoSuchUser, UserExists, Users

__all__ = [
    "ONLY_ONE",
    "REQUEST_TOPIC",
    "Accepted",
    "AuthExchange",
    "AuthStart",
    "Challenge",
    "Denied",
    "EnhancedAuthPlugin",
    "Group",
    "GroupHooks",
    "GroupPlugin",
    "GroupTimes",
    "HookFailed",
    "Imported",
    "JobBusy",
    "JobPlugin",
    "NoSuchJob",
    "NoSuchUser",
    "Refusal",
    "Request",
    "RequestPlugin",
    "SessionPlugin",
    "SpanPlugin",
    "StoragePlugin",
    "SyncPlugin",
    "UserExists",
    "Users",
    "never_awaited",
    "readers_of",
]
