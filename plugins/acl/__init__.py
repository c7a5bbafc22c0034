"""Access rules: from config.yaml, from storage, and from an ``acl_file`` of Mosquitto's.

Kept true: what is denied anywhere is denied; what no rule allows is denied, once there is any rule; a change acts on clients
that are connected.

What the rules mean is `broker.access.rules`, which knows no plugin. ``plugin`` asks them; ``routes`` shows and changes them
over HTTP.
"""

from plugins.acl.plugin import AclPlugin

__all__ = ["AclPlugin"]
