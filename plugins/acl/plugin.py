"""The plugin: the rules of the configuration and those in storage as one set, and a file of Mosquitto's beside them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from amqtt.plugins.base import BaseTopicPlugin

from broker.access import (
    RULE_KIND,
    AccessRule,
    Caller,
    MosquittoAcl,
    RuleSet,
    SessionInfo,
    Source,
    Verdict,
    decide,
    stored_place,
)
from broker.amqtt import Services, TidelineContext
from broker.errors import StartError
from plugins.acl.routes import make_router
from plugins.http import add_router

_ROUTES = "acl routes"


class AclPlugin(BaseTopicPlugin):
    """Says what a client may do. Without a rule anywhere nobody is asked, and everything may be done."""

    reloadable = True
    guards = RULE_KIND

    @dataclass
    class Config:
        """Settings under ``plugins: acl:``."""

        rules: list[AccessRule] = field(default_factory=list)
        """What is allowed and denied; see docs/access.md. Those in storage hold beside them."""
        acl_file: str = ""
        """A file as Mosquitto's ``acl_file``. It is read when the broker starts, and again by `tideline reload`."""

        def __post_init__(self) -> None:
            try:
                self.file()
            except ValueError as error:
                raise ValueError(f"acl_file: {error}") from error

        def file(self) -> MosquittoAcl | None:
            """The file, read now. Raises ValueError."""
            return MosquittoAcl(Path(self.acl_file)) if self.acl_file else None

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._rules = RuleSet((f"plugins.acl.rules[{number}]", rule) for number, rule in enumerate(self.config.rules))
        file = self.config.file()
        self._sources: list[Source] = [self._rules] if file is None else [self._rules, file]
        self.stored: dict[str, AccessRule] = {}
        """Those in storage, by id."""
        self._end_watch: Callable[[], None] | None = None
        if not context.shared.get(_ROUTES):  # a reload makes another plugin, and the routes find that one
            context.shared[_ROUTES] = True
            add_router(context, make_router(lambda server: server.plugin(AclPlugin)))
        self.context.on_loop(self._watch)

    async def close(self) -> None:
        """Hear of no more changes."""
        if self._end_watch is not None:
            self._end_watch()

    # --- the rules in storage ----------------------------------------------------------------------------------------

    @property
    def _server(self) -> Services:
        return cast(Services, self.context.server)

    def _watch(self) -> None:
        changed = weakref.WeakMethod(self._changed)  # a reload that fails drops what it has built without a word

        def rules_changed(settings: Mapping[str, bytes], keys: Collection[str]) -> None:
            method = changed()
            if method is not None:
                method(settings, keys)

        self._end_watch = self._server.watch_settings(RULE_KIND, rules_changed)

    def _changed(self, settings: Mapping[str, bytes], changed: Collection[str]) -> None:
        """What is in storage is other than it was. Raises `StartError` for what is no rule; the others hold."""
        wrong = ""
        for key in changed:
            value = settings.get(key)
            try:
                rule = None if value is None else AccessRule.parse(json.loads(value))
            except ValueError as error:
                wrong = f"stored rule {key!r} cannot be read, remove it (tideline acl remove): {error}"
                continue
            if rule is None:
                self.stored.pop(key, None)
                self._rules.drop(stored_place(key))
            else:
                self.stored[key] = rule
                self._rules.put(stored_place(key), rule)
        self._server.access.rules_changed()
        if wrong:
            raise StartError(wrong)

    # --- what the broker asks ----------------------------------------------------------------------------------------

    @property
    def unused(self) -> bool:
        """As of `broker.access.Decider`."""
        return all(source.empty for source in self._sources)

    def decide(self, info: SessionInfo, action: str, topic: str) -> Verdict:
        """As of `broker.access.Decider`. Over HTTP there is no client id."""
        caller = Caller(info.identity.username, None if info.request.over_http else info.client_id)
        return decide(self._sources, caller, action, topic)
