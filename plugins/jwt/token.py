"""What a token says: whether it counts, whom it names, until when, and what it allows. Pure but for the clock."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt

from broker.access import ACTIONS, AccessRule, RuleSet
from plugins.jwt.keys import FAMILIES, Key

LONGEST = 16 << 10
"""Characters of a token."""

_FILTERS = 500
_NAMED = (*ACTIONS, "read", "all")


class Refused(Exception):
    """Why a token lets nobody in. Has no part of the token but names of claims."""


class Token(NamedTuple):
    """A token that counts. ``expires`` is seconds since 1970; 0 is never. ``allows`` is None where it does not say."""

    user: str
    expires: float
    allows: RuleSet | None
    key: str
    """The `Key.id` of the key that has signed it."""


class Terms(NamedTuple):
    """What a token must be, beside signed."""

    algorithms: tuple[str, ...]
    issuer: str
    audience: tuple[str, ...]
    leeway: float
    require_expiry: bool
    user_claim: str
    acl_claim: str


def looks_like_one(text: str | None) -> bool:
    """Whether a password is a token, right or wrong: three parts, of which the first is a header that names an algorithm."""
    if text is None or text.count(".") != 2 or len(text) > LONGEST:
        return False
    try:
        return "alg" in jwt.get_unverified_header(text)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return False


def header(text: str, algorithms: tuple[str, ...]) -> tuple[str, str | None]:
    """(algorithm, name of the key or None). Raises `Refused`."""
    head = jwt.get_unverified_header(text)
    algorithm, name = head.get("alg"), head.get("kid")
    if algorithm not in algorithms:
        raise Refused(f"algorithm {str(algorithm)[:20]!r} is not one of {', '.join(algorithms)}")
    return algorithm, None if name is None else str(name)


def verified(text: str, key: Key, algorithm: str, terms: Terms) -> Token:
    """What the token says, if this key has signed it. Raises `Refused`, and `jwt.InvalidSignatureError`."""
    assert FAMILIES[algorithm] == key.family
    try:
        claims = jwt.decode(
            text,
            key.key,
            algorithms=[algorithm],
            issuer=terms.issuer or None,
            audience=list(terms.audience) or None,
            leeway=terms.leeway,
            options={"require": ["exp"] if terms.require_expiry else [], "verify_aud": bool(terms.audience)},
        )
    except jwt.InvalidSignatureError:
        raise
    except jwt.ExpiredSignatureError:
        raise Refused("it has expired") from None
    except jwt.ImmatureSignatureError:
        raise Refused("it does not count yet (nbf or iat)") from None
    except jwt.InvalidIssuerError:
        raise Refused("it is of another issuer (iss)") from None
    except jwt.InvalidAudienceError:
        raise Refused("it is for another audience (aud)") from None
    except jwt.MissingRequiredClaimError as error:
        raise Refused(f"it has no claim {error.claim}") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise Refused(f"it cannot be read: {type(error).__name__}") from None
    expires = claims.get("exp")
    return Token(
        _user(claims, terms.user_claim),
        float(expires) + terms.leeway if expires is not None else 0.0,
        _allows(claims, terms.acl_claim),
        key.id,
    )


def _user(claims: Mapping[str, Any], claim: str) -> str:
    name = claims.get(claim)
    if not isinstance(name, str) or not name or len(name) > 1024:
        raise Refused(f"its claim {claim} names no user")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise Refused(f"its claim {claim} has a control character")
    return name


def _allows(claims: Mapping[str, Any], claim: str) -> RuleSet | None:
    """The filters of a claim ``{"publish": [...], "subscribe": [...]}`` as rules: whatever they do not allow is denied."""
    if not claim or claim not in claims:
        return None
    found = claims[claim]
    if not isinstance(found, Mapping):
        raise Refused(f'its claim {claim} must be {{"publish": [...], "subscribe": [...]}}')
    rules, count = RuleSet(), 0
    for action, filters in found.items():
        if action not in _NAMED:
            raise Refused(f"its claim {claim} has {action[:40]!r}: there is {', '.join(_NAMED)}")
        if not isinstance(filters, list) or not all(isinstance(one, str) for one in filters):
            raise Refused(f"its claim {claim}: {action} must be a list of filters")
        count += len(filters)
        if count > _FILTERS:
            raise Refused(f"its claim {claim} has more than {_FILTERS} filters")
        # Who may subscribe may also receive, and read what was sent: unless the token tells them apart.
        what = "read" if action == "subscribe" and set(found) <= {"publish", "subscribe"} else action
        try:
            if filters:
                rules.put(f"claim {claim}.{action}", AccessRule(allow=what, topics=filters))
        except ValueError as error:
            raise Refused(f"its claim {claim}: {error}") from None
    return rules
