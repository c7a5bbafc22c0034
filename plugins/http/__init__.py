"""The HTTP API.

Kept true: a change is answered with success once it is durable, and a caller sees what the same user may see over MQTT.

``plugin`` runs it; ``app`` puts it together; ``auth`` and ``guard`` say who comes in; ``conversations``, ``devices``, ``sync``,
``search`` and ``account`` are the routes, ``operation`` and ``diagnosis`` the operator's, ``probes`` those beside the API;
``api`` is what routes need. Another plugin adds routes by `add_router`, and pages for people by `add_pages`.
"""

from plugins.http.pages import Pages, add_pages
from plugins.http.plugin import HttpPlugin, add_router

__all__ = ["HttpPlugin", "Pages", "add_pages", "add_router"]
