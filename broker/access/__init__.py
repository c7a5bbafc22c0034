"""Who may do what: authentication at CONNECT, and access control of topics from then on.

Kept true: a user name counts only once a credential for it was verified; nothing is published, subscribed to or received that a
plugin or a rule denies; an answer that does not come in time is a denial.
"""

from broker.access.access_control import OWN, AccessControl
from broker.access.accounts import BEGUN, USER, Account, name_problem
from broker.access.amqtt_session import LightSession
from broker.access.asking import blame
from broker.access.authentication import MustWait
from broker.access.bans import KIND, Ban, Bans, network
from broker.access.fair_queue import FairQueue
from broker.access.filter_tree import Caller
from broker.access.identity import AuthRequest, CannotTell, Identity
from broker.access.logins import Busy
from broker.access.mosquitto_acl import MosquittoAcl
from broker.access.openness import Openness
from broker.access.password_file import Passwords, generated, hash_problem, hashed, read
from broker.access.rule_set import (
    ACTIONS,
    HISTORY,
    PUBLISH,
    RECEIVE,
    SEARCH,
    SUBSCRIBE,
    Rule,
    RuleSet,
    Source,
    Verdict,
    decide,
)
from broker.access.rules import RULE_KIND, AccessRule, led_elsewhere, maybe_led, stored_place
from broker.access.scram import ITERATIONS, METHOD, Credential, prepared
from broker.access.session_info import SessionInfo, info_of
from broker.access.stand_ins import DELAYED, StandIns, StandsFor, settled
from broker.access.topic_plugins import CONVERSATIONS, Decider, Hiding, MembersOnly

__all__ = [
    "ACTIONS",
    "BEGUN",
    "CONVERSATIONS",
    "DELAYED",
    "HISTORY",
    "ITERATIONS",
    "KIND",
    "METHOD",
    "OWN",
    "PUBLISH",
    "RECEIVE",
    "RULE_KIND",
    "SEARCH",
    "SUBSCRIBE",
    "USER",
    "AccessControl",
    "AccessRule",
    "Account",
    "AuthRequest",
    "Ban",
    "Bans",
    "Busy",
    "Caller",
    "CannotTell",
    "Credential",
    "Decider",
    "FairQueue",
    "Hiding",
    "Identity",
    "LightSession",
    "MembersOnly",
    "MosquittoAcl",
    "MustWait",
    "Openness",
    "Passwords",
    "Rule",
    "RuleSet",
    "SessionInfo",
    "Source",
    "StandIns",
    "StandsFor",
    "Verdict",
    "blame",
    "decide",
    "generated",
    "hash_problem",
    "hashed",
    "info_of",
    "led_elsewhere",
    "maybe_led",
    "name_problem",
    "network",
    "prepared",
    "read",
    "settled",
    "stored_place",
]
