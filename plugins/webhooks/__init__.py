"""Webhooks: what happened, told to HTTP services, signed, in order, at least once.

Kept true: an event that is in storage is told until its service has taken it, over any restart, and only then is the next one.

``signature`` is the Standard Webhooks specification's, ``events`` says what is told of a message, ``hook`` tells one service,
``client_events`` stores who comes and goes, ``plugin`` runs them.
"""

from plugins.webhooks.plugin import WebhooksPlugin

__all__ = ["WebhooksPlugin"]
