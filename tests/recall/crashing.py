"""The plugin as it is, in a process that is killed before or after the commit of a message that says something of another."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from broker.amqtt import Services
from plugins.recall import RecallPlugin
from storage.records import Append, Operation

_SAYS = (b"tideline-", b"attachment")


class Crashing(RecallPlugin):
    """Of the first such message."""

    @dataclass
    class Config(RecallPlugin.Config):
        """What else there is to say."""

        step: int = 0
        """1: before its commit; 2: after it."""

    config: Config

    async def on_broker_post_start(self) -> None:
        await super().on_broker_post_start()
        storage = cast(Services, self.context.server).storage
        commit = storage.commit

        async def dying(group: Sequence[Operation]) -> None:
            says = any(isinstance(op, Append) and any(name in op.message.properties for name in _SAYS) for op in group)
            if says and self.config.step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            await commit(group)
            if says and self.config.step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        storage.commit = dying  # type: ignore[method-assign]
