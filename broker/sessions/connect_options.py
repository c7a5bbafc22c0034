"""What a client asks for when it connects, besides a session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ConnectOptions:
    """What an MQTT 5 client asked for in CONNECT, besides what its connection keeps."""

    problem_information: bool | None = None
    """Whether it wants reasons in words; None where it did not say."""
    response_information: bool = False
    assigned: bool = False
    asked_expiry: int = 0
    ack_properties: bool = False
    """The user property ``tideline-acks: on``: PUBACK and PUBREC carry the message's id and sequence."""
    message_properties: bool = False
    """The user property ``tideline-messages: on``: deliveries carry the message's id, sequences, sender and time."""
