"""The users in storage where no broker runs, by a server of this process."""

from __future__ import annotations

import asyncio

from broker.cli.here import bare, kept_at, server_here
from broker.cli.logs import configure
from broker.cli.serve import loop_factory
from broker.cli.settings import WRONG_CONFIGURATION, Failure, require_database
from broker.cli.users_there import Action, T
from broker.config import Log, Settings
from broker.hooks import Users

_NEEDED = ("persistence", "sync", "accounts")


def with_users_here(settings: Settings, action: Action[T], make: bool) -> T:
    """Do something to the users. Raises as `broker.cli.users_there.with_users` does."""
    if "accounts" not in settings.plugins:
        raise Failure(["accounts is not among the plugins of the configuration: add `accounts: {}` there"], WRONG_CONFIGURATION)
    url = kept_at(settings)
    made = bare(settings, _NEEDED)
    configure(Log(level="warning"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if not make:
            runner.run(require_database(url))
        return runner.run(_run(made, action))


async def _run(settings: Settings, action: Action[T]) -> T:
    async with server_here(settings) as server:
        users = next(plugin for plugin in server.plugin_host.plugins.plugins if isinstance(plugin, Users))
        return await action(users)
