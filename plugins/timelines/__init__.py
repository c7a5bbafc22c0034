"""Conversations and inboxes as their users see them: what the HTTP API and the requests over MQTT have in common.

Kept true: every question and every change asks whether its caller may, in one place.
"""

from plugins.timelines.errors import Conflict, Forbidden, NotFound, Problem, TooLarge, Unprocessable
from plugins.timelines.floors import Floors, seen
from plugins.timelines.participants import Participants
from plugins.timelines.service import Timelines
from plugins.timelines.who import OPERATOR, Who

__all__ = [
    "OPERATOR",
    "Conflict",
    "Floors",
    "Forbidden",
    "NotFound",
    "Participants",
    "Problem",
    "Timelines",
    "TooLarge",
    "Unprocessable",
    "Who",
    "seen",
]
