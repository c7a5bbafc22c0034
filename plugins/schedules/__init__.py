"""Scheduled messages: published later, or again and again; by `$delayed/<seconds>/<topic>`, HTTP and `$sync/request`.

Kept true: what was acknowledged is published once, over restarts, kills and nodes; what was cancelled is not; and nobody
publishes later what it may not publish then.

``topic`` is the topic's grammar, ``when`` and ``recurrence`` reckon times, ``entry`` is what is stored; ``service`` is what is
asked, over HTTP by ``routes`` and over MQTT by ``requests``; ``runner`` publishes what is due, ``counts`` is how many of a user
wait, ``figures`` is what the metrics tell.
"""

from plugins.schedules.plugin import SchedulesPlugin

__all__ = ["SchedulesPlugin"]
