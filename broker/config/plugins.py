"""Which plugins a configuration names, brought into one form: short name or class path → settings.

- ``persistence`` and ``sync`` are always among them: what says nothing about them gets the defaults. Keeping nothing has to be
  said (``persistence: memory://``), and they may stand at the top of the file as well as under ``plugins``.
- A plain text stands for the one setting that matters most: the storage's URL, the inbox's start.
- A class path of one of Tideline's own plugins is its short name.
- ``name: {class: my.own.Plugin, …}`` is ``my.own.Plugin: {…}``: the names of environment variables hold no dots.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.config.sources import Path, dotted
from broker.config.wording import suggest

ALIASES = {
    "persistence": "plugins.persistence.PersistencePlugin",
    "sync": "plugins.sync.InboxPlugin",
    "sys": "plugins.sys_topics.SysTopicsPlugin",
    "http": "plugins.http.HttpPlugin",
    "console": "plugins.console.ConsolePlugin",
    "requests": "plugins.sync_requests.SyncRequestsPlugin",
    "accounts": "plugins.accounts.AccountsPlugin",
    "passwords": "plugins.passwords.PasswordsPlugin",
    "scram": "plugins.scram.ScramPlugin",
    "jwt": "plugins.jwt.JwtPlugin",
    "acl": "plugins.acl.AclPlugin",
    "recall": "plugins.recall.RecallPlugin",
    "conversations": "plugins.conversations.ConversationsPlugin",
    "receipts": "plugins.receipts.ReceiptsPlugin",
    "search": "plugins.search.SearchPlugin",
    "jobs": "plugins.jobs.JobsPlugin",
    "schedules": "plugins.schedules.SchedulesPlugin",
    "presence": "plugins.presence.PresencePlugin",
    "otel": "plugins.otel.OtelPlugin",
    "webhooks": "plugins.webhooks.WebhooksPlugin",
    "bridge": "plugins.bridge.BridgePlugin",
    "rules": "plugins.rules.RulesPlugin",
    "attachments": "plugins.attachments.AttachmentsPlugin",
}
"""Short names of Tideline's own plugins; any other key under ``plugins`` is a class path."""

DEFAULT_URL = "sqlite:///data/tideline.db"

ALWAYS = {"persistence": "url", "sync": "start"}
"""The plugins that are there unless another maker's takes their place, and the setting that a plain text stands for."""

LEFT_OUT = {
    "persistence": "false leaves storage to another plugin, and none provides it; to keep nothing, say persistence: memory://",
    "sync": "false leaves the inboxes to another plugin, and none decides about them; for a history without inboxes, give "
    "persistence the policy {filter: '#', mode: store}",
}

_SHORT_NAMES = {path: name for name, path in ALIASES.items()}


def default_plugins() -> dict[str, dict[str, Any]]:
    """The embedded store, the inboxes, ``$SYS``, the HTTP API with its console, the search index; and until there is a user,
    whoever can connect may do everything."""
    return {
        "persistence": {"url": DEFAULT_URL},
        "sync": {"start": "latest"},
        "sys": {"interval": 10},
        "http": {"bind": "127.0.0.1:8080", "operator_file": "data/operator.json"},
        "console": {},
        "requests": {},
        "jobs": {},
        "schedules": {},
        "acl": {},
        "recall": {},
        "search": {"engine": "embedded", "path": "data/search.db"},
        "accounts": {},
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
    }


@dataclass
class Gathered:
    """A configuration's data in the one form; ``written`` has where it differs: a path here → the path as written."""

    data: dict[str, Any]
    written: dict[Path, Path] = field(default_factory=dict)
    problems: list[tuple[Path, str]] = field(default_factory=list)


def gathered(data: Mapping[str, Any]) -> Gathered:
    """Bring the plugins into the one form. What is no mapping is left as it is, for who checks types. Changes nothing given."""
    found = Gathered({name: value for name, value in data.items() if name not in ALWAYS})
    plugins = data.get("plugins")
    if plugins is not None and not isinstance(plugins, Mapping):
        return found
    named: dict[str, Any] = {}
    for key, options in (default_plugins() if plugins is None else plugins).items():
        _put(found, named, str(key), options)
    first: dict[str, Any] = {}
    below_plugins = set(named) if plugins is not None else set()
    for name in ALWAYS:
        if name not in data:
            continue
        if name in below_plugins:
            written = dotted(found.written.get(("plugins", name), ("plugins", name)))
            found.problems.append(((name,), f"given twice, also as {written}"))
        named.pop(name, None)
        first[name] = _spelt_out(name, data[name])
        found.written["plugins", name] = (name,)
    missing = {name: default_plugins()[name] for name in ALWAYS if name not in {*named, *first}}
    found.data["plugins"] = {**missing, **first, **named}  # what is kept of a message is settled before others look at it
    return found


def _put(found: Gathered, named: dict[str, Any], key: str, options: Any) -> None:
    target = key
    if isinstance(options, Mapping) and "class" in options:
        options = dict(options)
        target = options.pop("class")
        if not isinstance(target, str) or "." not in target:
            problem = "must be the class path of a plugin, such as amqtt.plugins.authentication.AnonymousAuthPlugin"
            found.problems.append((("plugins", key, "class"), problem))
            target = key
    target = _SHORT_NAMES.get(target, target)
    if target in named:
        found.problems.append((("plugins", target), f"given twice, also as {key}"))
    elif target != key:
        found.written["plugins", target] = ("plugins", key)
    named[target] = _spelt_out(target, options)


def _spelt_out(name: str, options: Any) -> Any:
    """A plain text as the setting that it stands for."""
    if options is None:
        return {}
    return {ALWAYS[name]: options} if name in ALWAYS and isinstance(options, str) else options


def name_problems(plugins: Mapping[str, Any], sections: Container[str]) -> Iterator[tuple[Path, str]]:
    """Every key that is no plugin: (path, problem). ``sections`` are those of the configuration."""
    for key in plugins:
        if key in sections:
            yield ("plugins", key), "not a plugin, it belongs beside plugins"
        elif key not in ALIASES and "." not in key:
            others = "others go by class path, or have it as their class"
            yield ("plugins", key), f"not a plugin{suggest(key, ALIASES)} ({others})"
