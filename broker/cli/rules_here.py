"""The access rules where no broker runs: those of the configuration, and those in storage."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from amqtt.plugins.base import BaseTopicPlugin
from dacite import from_dict

from broker.access import (
    PUBLISH,
    RULE_KIND,
    SUBSCRIBE,
    USER,
    AccessRule,
    Caller,
    MosquittoAcl,
    RuleSet,
    Source,
    StandIns,
    decide,
    led_elsewhere,
    maybe_led,
    settled,
    stored_place,
)
from broker.cli.here import bare, kept_at, server_here
from broker.cli.logs import configure
from broker.cli.serve import loop_factory, one_line
from broker.cli.settings import CANNOT_START, WRONG_CONFIGURATION, Failure
from broker.config import ALIASES, Log, Settings, checked, plugin_class, settings_problems
from broker.hooks import GroupPlugin
from broker.packets import ProtocolViolation, parse_share, topics, validate_filter
from storage.errors import NoDatabase, StorageError
from storage.factory import open_url
from storage.records import DropSetting, SaveSetting

_PLUGIN = "acl"
_MOVES = "rules"
"""The plugin that leads messages to other topics."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TIMEOUT = 30.0


def new_id(given: str | None) -> str:
    """An id for a rule, or the one that was given. Raises `Failure`."""
    if given is not None and not _ID.fullmatch(given):
        raise Failure([f"rule id {given[:80]!r}: must be 1 to 64 letters, digits, '.', '_' or '-'"], 2)
    return given or secrets.token_hex(4)


class RulesHere:
    """What the next broker will ask. Raises `Failure` for what it could not read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        options = settings.plugins.get(_PLUGIN, {})
        if _PLUGIN in settings.plugins and (problems := settings_problems(settings, _PLUGIN)):
            raise Failure(problems, WRONG_CONFIGURATION)
        self._configured = [
            (settings.where(("plugins", _PLUGIN, "rules", number)), AccessRule.parse(rule))
            for number, rule in enumerate(options.get("rules", ()))
        ]
        self._file = str(options.get("acl_file", ""))
        self._plugins = {key: plugin_class(ALIASES.get(key, key)) for key in settings.plugins}
        self._stand_ins = StandIns()
        for kind in self._plugins.values():
            if issubclass(kind, GroupPlugin):
                self._stand_ins.add(kind.stand_ins)
        self._stored = asyncio.run(_stored(settings, RULE_KIND)) if _PLUGIN in settings.plugins else {}

    @property
    def empty(self) -> bool:
        """Whether there is no rule at all."""
        return not (self._configured or self._file or self._stored)

    def listed(self) -> dict[str, Any]:
        """As ``GET /v1/acl/rules``."""
        placed: list[tuple[str | None, str, AccessRule]] = [(None, place, rule) for place, rule in self._configured]
        placed += [(key, stored_place(key), rule) for key, rule in self._stored_rules()]
        nothing = dict.fromkeys(("allow", "deny", "topics", "users"))
        rules = [{"id": key, "place": place, **nothing, **rule.written()} for key, place, rule in placed]
        return {"rules": rules, "acl_file": self._file or None}

    def check(self, user: str, client: str, action: str, topic: str) -> dict[str, Any]:
        """As ``GET /v1/acl/check``."""
        try:
            if action == SUBSCRIBE:
                validate_filter(topic)
                share = parse_share(topic)
                topic = topic if share is None else share[1]
            else:
                topics.validate_name(topic)
        except ProtocolViolation as violation:
            raise Failure([violation.text], 2) from None
        if action == PUBLISH and (why := self._stand_ins.closed(topic)):
            return {"allowed": False, "why": f"the topic {why}"}
        real = self._stand_ins.real(action, topic)
        if isinstance(real, bool):
            return {"allowed": real, "why": settled(real).why}
        self._name_others()
        rules = RuleSet([*self._configured, *((stored_place(key), rule) for key, rule in self._stored_rules())])
        sources: list[Source] = [rules, MosquittoAcl(Path(self._file))] if self._file else [rules]
        caller = Caller(user or None, client or None)
        verdict = decide(sources, caller, action, real)
        if action != PUBLISH or not verdict.allowed or _MOVES not in self._settings.plugins:
            return {"allowed": verdict.allowed, "why": verdict.why}
        there, unsure = self._led(topic, user, client)
        if there == topic:
            return {"allowed": True, "why": verdict.why + maybe_led(unsure)}
        verdict = decide(sources, caller, action, there)
        return {"allowed": verdict.allowed, "why": led_elsewhere(there, verdict.why) + maybe_led(unsure)}

    def _led(self, topic: str, user: str, client: str) -> tuple[str, list[str]]:
        """Where the rules of messages lead it; see `plugins.rules.leading`."""
        if problems := settings_problems(self._settings, _MOVES):
            raise Failure(problems, WRONG_CONFIGURATION)
        kind: Any = self._plugins[_MOVES]
        made = from_dict(kind.Config, checked(ALIASES[_MOVES], self._settings.plugins[_MOVES]))
        found: tuple[str, list[str]] = kind.leads(made, topic, user, client, levels=self._settings.mqtt.max_topic_levels)
        return found

    def has(self, key: str) -> bool:
        """Whether there is a stored rule of this id."""
        return key in self._stored

    def unknown(self, users: Sequence[str]) -> list[str]:
        """Those who are none of the users in storage; nobody where there are none."""
        known = asyncio.run(_stored(self._settings, USER)) if users else {}
        return [user for user in users if user not in known] if known else []

    def would_be_empty(self, key: str) -> bool:
        """Whether no rule is left without this one."""
        return not (self._configured or self._file or self._stored.keys() - {key})

    def _stored_rules(self) -> Iterator[tuple[str, AccessRule]]:
        for key, value in self._stored.items():
            try:
                yield key, AccessRule.parse(json.loads(value))
            except ValueError as error:
                text = f"stored rule {key!r} cannot be read, remove it (tideline acl remove {key}): {error}"
                raise Failure([text], CANNOT_START) from None

    def _name_others(self) -> None:
        for key, kind in self._plugins.items():
            if key != _PLUGIN and issubclass(kind, BaseTopicPlugin):
                click.echo(f"{key} was not asked: only a broker that runs can do that", err=True)


async def _stored(settings: Settings, kind: str) -> dict[str, bytes]:
    """The settings of a kind in storage, by key, as they are there."""
    if settings.keeps_nothing or not settings.storage_url:
        return {}
    storage = open_url(settings.storage_url, read_only=True)
    try:
        await storage.open()
        return {setting.key: setting.value for setting in await storage.settings(kind)}
    except NoDatabase:
        return {}
    except StorageError as error:
        raise Failure([f"the {kind}s in storage cannot be read: {one_line(error)}"], CANNOT_START) from None
    finally:
        await storage.close()


def change_here(settings: Settings, here: RulesHere, key: str, rule: AccessRule | None) -> bool:
    """Save a rule, or remove it. Whether it is the first one, or was the last. Raises `Failure`."""
    if _PLUGIN not in settings.plugins:
        raise Failure([f"acl is not among the plugins of the configuration: add `{_PLUGIN}: {{}}` there"], WRONG_CONFIGURATION)
    if rule is None and not here.has(key):
        raise Failure([f"rule {key!r}: there is none in storage"], 1)
    kept_at(settings)
    made = bare(settings, ("persistence", "sync"))
    configure(Log(level="warning"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_write(made, key, rule))
    return here.empty if rule is not None else here.would_be_empty(key)


async def _write(settings: Settings, key: str, rule: AccessRule | None) -> None:
    operation = (
        DropSetting(RULE_KIND, key) if rule is None else SaveSetting(RULE_KIND, key, json.dumps(rule.written()).encode())
    )
    async with server_here(settings) as server:
        try:
            await server.api.commit([operation], _TIMEOUT)
        except StorageError as error:
            raise Failure([one_line(error)], CANNOT_START) from None
