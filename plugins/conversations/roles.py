"""Who may do what in a conversation. No I/O."""

from __future__ import annotations

from broker.access import PUBLISH
from plugins.conversations.model import ADMIN, CHANNEL, DIRECT, MEMBER, OWNER, READ_ONLY, Membership
from plugins.timelines import Forbidden


def may(member: Membership | None, action: str) -> bool:
    """Whether somebody may publish to a conversation, or receive, read, search and subscribe to it."""
    if member is None or member.invited:
        return False
    return action != PUBLISH or member.role != READ_ONLY


def moderates(member: Membership | None) -> bool:
    """Whether somebody may recall what other members said."""
    return member is not None and not member.invited and member.role in (OWNER, ADMIN)


def first_role(kind: str) -> str:
    """What who is added is, unless it is said."""
    return READ_ONLY if kind == CHANNEL else MEMBER


def may_change(actor: Membership | None, kind: str, before: Membership | None, role: str) -> None:
    """Raise `Forbidden` unless ``actor`` (None: an operator) may give somebody, who is ``before`` now, a role.

    Owners may do everything; admins add, remove and change who is neither owner nor admin.
    """
    if actor is None:
        return
    if kind == DIRECT:
        raise Forbidden("a conversation of two has no other members: begin a group")
    if actor.role == OWNER:
        return
    if actor.role != ADMIN:
        raise Forbidden(f"your role is {actor.role}: owners and admins say who is a member")
    high = (OWNER, ADMIN)
    if role in high or (before is not None and before.role in high):
        raise Forbidden("your role is admin: only an owner says who is owner or admin")


def may_describe(actor: Membership | None) -> None:
    """Raise `Forbidden` unless ``actor`` (None: an operator) may change what the conversation is called, and shows."""
    if actor is not None and actor.role not in (OWNER, ADMIN):
        raise Forbidden(f"your role is {actor.role}: owners and admins change a conversation")
