"""Whether a client can ever come back as who it is."""

from __future__ import annotations

from broker.connection.connection import Connection


def passing(connection: object) -> bool:
    """Whether a connection is of a client whose id the broker made, and whose session ends with it: nobody comes by that id
    again. For plugins that are given connections (`broker.hooks.SessionPlugin`)."""
    options = connection.connect_options if isinstance(connection, Connection) else None
    return options is not None and options.assigned and not options.asked_expiry
