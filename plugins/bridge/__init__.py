"""A bridge to another MQTT broker: what is stored here goes there, what is published there is stored here, at least once.

Kept true: what goes out is passed by only when the other broker has acknowledged it, and what comes in is acknowledged only
when it is durable here; so either side may be away, or killed, and nothing is lost.

``config`` and ``mapping`` say what goes where, ``link`` is the connection, ``bridge`` runs one, ``plugin`` all of them.
"""

from plugins.bridge.plugin import BridgePlugin

__all__ = ["BridgePlugin"]
