"""The HTTP API.

``plugin`` runs it; ``app`` puts it together; ``auth`` and ``guard`` say who comes in; ``conversations``, ``devices``, ``sync``,
``search`` and ``account`` are the routes; ``api`` is what routes need. Another plugin adds routes by `add_router`.
"""

from plugins.http.plugin import HttpPlugin, add_router

__all__ = ["HttpPlugin", "add_router"]
