"""Users in storage: who may log in, kept by `tideline user` and the HTTP API, the same on every node of a cluster.

Kept true: as soon as there is a user, nobody comes in without having proved who it is, unless the configuration says so; and
who is shut out has no connection left a second later, on any node.
"""

from plugins.accounts.plugin import AccountsPlugin

__all__ = ["AccountsPlugin"]
