"""The plugin: a password, or over HTTP a bearer token, that looks like a JWT is one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import jwt
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from broker.access import Caller, CannotTell, LightSession, SessionInfo, Verdict
from broker.amqtt import Services, TidelineContext
from broker.config import is_loopback, parse_duration
from broker.errors import fault_of, refuse
from broker.rate_limited_log import RateLimitedLog
from plugins.jwt.key_url import KeyUrl
from plugins.jwt.keys import FAMILIES, Keys, file, secret
from plugins.jwt.token import Refused, Terms, Token, header, looks_like_one, verified

log = logging.getLogger(__name__)

_ATTRIBUTE = "tideline.token"
_KEYS = "jwt keys"
_NO_TOKEN = Verdict(True, None, "no token says what it may do")


class JwtPlugin(BaseAuthPlugin, BaseTopicPlugin):
    """Lets in who has a token that counts, as the user that it names."""

    reloadable = True
    needs_identity = True

    @dataclass
    class Config:
        """Settings under ``plugins: jwt:``."""

        algorithms: list[str]
        """Those that tokens may be signed with, of one kind: HS256, RS256, PS256, ES256, their 384 and 512, EdDSA."""
        secret_file: str = ""
        """The shared secret of HS algorithms."""
        key_file: str = ""
        """Public keys or certificates in PEM, or a set of JWKs."""
        jwks_url: str = ""
        """Where a set of JWKs is fetched from, and again."""
        refresh: float | str = 3600.0
        """Seconds until it is."""
        issuer: str = ""
        """What ``iss`` must be; empty for anything."""
        audience: str | list[str] = field(default_factory=list)
        """Of what ``aud`` must have one; empty for anything."""
        leeway: float | str = 10.0
        """Seconds that clocks may differ by."""
        require_expiry: bool = True
        """Whether a token without ``exp`` is refused."""
        disconnect: bool = True
        """Whether a connection ends when its token does."""
        user_claim: str = "sub"
        """The claim that names the user."""
        acl_claim: str = "acl"
        """The claim that says what it may do; empty for none."""
        token_in: str = "password"
        """The field of CONNECT that has the token: ``password`` or ``username``."""
        anonymous: bool = False
        """Whether clients whom no plugin verified are let in too, where AnonymousAuthPlugin lets them."""

        def __post_init__(self) -> None:
            refuse(self._faults())

        def _faults(self) -> Iterator[str]:
            kinds = {FAMILIES.get(name, "") for name in self.algorithms}
            wrong = [name for name in self.algorithms if name not in FAMILIES]
            if not kinds or wrong:
                yield f"algorithms {wrong[0] if wrong else []!r} must be of {', '.join(FAMILIES)}"
            elif "HS" in kinds and len(kinds) > 1:
                yield "algorithms must not have HS beside others: a public key is no shared secret"
            given = [name for name in ("secret_file", "key_file", "jwks_url") if getattr(self, name)]
            if len(given) != 1:
                yield f"one of secret_file, key_file and jwks_url says where the keys are, not {len(given)} of them"
            elif not wrong and (given == ["secret_file"]) != (kinds == {"HS"}) and given != ["key_file"]:
                yield f"{given[0]} does not go with algorithms {', '.join(self.algorithms)}"
            if self.jwks_url:
                yield from fault_of(lambda: checked_url(self.jwks_url))
            for name, least in (("refresh", 1), ("leeway", 0)):
                yield from fault_of(partial(_seconds, name, getattr(self, name), least))
            if self.token_in not in ("password", "username"):
                yield f"token_in {self.token_in!r} must be password or username"
            yield from fault_of(self.keys)

        def keys(self) -> Keys | None:
            """The keys of the files, read now; None where they are at a URL. Raises ValueError."""
            for name, read in (("secret_file", secret), ("key_file", file)):
                path = getattr(self, name)
                try:
                    if path:
                        return read(Path(path))
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
            return None

        @property
        def terms(self) -> Terms:
            """What a token must be."""
            audience = (self.audience,) if isinstance(self.audience, str) else tuple(self.audience)
            return Terms(
                tuple(self.algorithms),
                self.issuer,
                tuple(filter(None, audience)),
                _seconds("leeway", self.leeway, 0),
                self.require_expiry,
                self.user_claim,
                self.acl_claim,
            )

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._terms = self.config.terms
        self._refusals = RateLimitedLog(log, 1.0)
        self._keys = self.config.keys()
        self._url: KeyUrl | None = None
        self._limits = False  # whether a token has ever said what its user may do
        self.needs_identity = not self.config.anonymous
        if self.config.jwks_url:
            self.context.on_loop(self._fetch)
        elif context.shared.get(_KEYS) is not None:  # a reload
            self.context.on_loop(self._read_again)
        context.shared.setdefault(_KEYS, self._keys)

    def _fetch(self) -> None:
        refresh = _seconds("refresh", self.config.refresh, 1)
        shared = self.context.shared  # with the plugin before a reload, which must not shut anybody out
        before = shared.get(_KEYS)
        self._url = shared[_KEYS] = KeyUrl(
            self.config.jwks_url, refresh, before if isinstance(before, KeyUrl) else None, self._have
        )

    def _read_again(self) -> None:
        assert self._keys is not None
        self._have(self._keys)

    def _have(self, keys: Keys) -> None:
        """These are the keys now: who was let in by another is let in no longer."""
        ids = keys.ids
        ended = cast(Services, self.context.server).revoke(
            lambda identity: identity.vouched_by.startswith("jwt ") and identity.vouched_by not in ids,
            "the key of its token was withdrawn",
        )
        if ended:
            log.info("jwt: %d connection%s ended, whose tokens' keys were withdrawn", ended, "s" * (ended != 1))

    async def close(self) -> None:
        """Fetch no more keys."""
        if self._url is not None:
            await self._url.close()

    # --- who is it -------------------------------------------------------------------------------------------------

    def takes(self, session: LightSession) -> bool:
        """Whether the client sent a token. It is then asked of nobody else, and in no field that is logged."""
        if looks_like_one(session.password):
            return True
        if self.config.token_in == "username" and looks_like_one(session.username):
            session.password, session.username = session.username, None
            return True
        return False

    async def authenticate(self, *, session: Any) -> bool | None:
        """None without a token. Raises `CannotTell` while there are no keys."""
        if not looks_like_one(session.password):
            return None
        try:
            token = await self._token(session.password)
        except Refused as refused:
            who = f"client {session.client_id!r} at {session.remote_address}"
            self._refusals.warning(
                "jwt: %s: the token is refused: %s", who, refused, key=(session.remote_address, str(refused))
            )
            return False
        session.verified_as, session.vouched_by = token.user, token.key
        session.valid_until = token.expires if self.config.disconnect else 0.0
        if token.allows is not None:
            session.attributes[_ATTRIBUTE] = token
            if not self._limits:
                self._limits = True
                cast(Services, self.context.server).access.rules_changed()
        return True

    async def _token(self, text: str) -> Token:
        algorithm, name = header(text, self._terms.algorithms)
        found = self._fitting(algorithm, name)
        if not found and self._url is not None:
            await self._url.look_again()
            found = self._fitting(algorithm, name)
        for key in found:
            try:
                return verified(text, key, algorithm, self._terms)
            except jwt.InvalidSignatureError:
                continue
        raise Refused("no key has signed it" if found else "its key is unknown (kid)")

    def _fitting(self, algorithm: str, name: str | None) -> Any:
        keys = self._keys if self._url is None else self._url.keys
        if keys is None:
            raise CannotTell("the keys that tokens are signed with cannot be had")
        return keys.fitting(algorithm, name)

    # --- what may it -----------------------------------------------------------------------------------------------

    @property
    def unused(self) -> bool:
        """As of `broker.access.Decider`."""
        return not self._limits

    def decide(self, info: SessionInfo, action: str, topic: str) -> Verdict:
        """As of `broker.access.Decider`: what the client's token allows."""
        session = info.identity.session
        token = None if session is None or "attributes" not in session.__dict__ else session.attributes.get(_ATTRIBUTE)
        if token is None:
            return _NO_TOKEN
        caller = Caller(info.identity.username, None if info.request.over_http else info.client_id)
        return token.allows.verdict(caller, action, topic) or Verdict(False, None, "its token does not allow it")


def _seconds(name: str, value: float | str, least: int) -> float:
    """Raises ValueError."""
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{name} {value!r} {error}") from None
    if not isinstance(seconds, int | float) or seconds < least:
        raise ValueError(f"{name} {value!r} must be {'1 second or more' if least else '0 or more'}")
    return float(seconds)


def checked_url(url: str) -> None:
    """Raises ValueError where keys could be changed on their way."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"jwks_url {url!r} must be an https:// URL")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"jwks_url {url!r} must be https:// where it leaves this machine")
    if parts.username or parts.password:
        raise ValueError("jwks_url must not have a user name or password")
