"""Who may do what: authentication at CONNECT, and access control of topics from then on.

Kept true: a user name counts only once a credential for it was verified; nothing is published, subscribed to or received that a
plugin denies; an answer that does not come in time is a denial.
"""

from broker.access.access_control import OWN, AccessControl, blame
from broker.access.amqtt_session import LightSession
from broker.access.identity import AuthRequest, Identity, SessionInfo
from broker.access.logins import Busy
from broker.access.password_file import Passwords, generated, hashed, read
from broker.access.scram import ITERATIONS, METHOD, Credential, prepared

__all__ = [
    "ITERATIONS",
    "METHOD",
    "OWN",
    "AccessControl",
    "AuthRequest",
    "Busy",
    "Credential",
    "Identity",
    "LightSession",
    "Passwords",
    "SessionInfo",
    "blame",
    "generated",
    "hashed",
    "prepared",
    "read",
]
