"""Plain amqtt, the plugin_host under Tideline, on uvloop."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

from bench.peers.base import Peer


class Amqtt(Peer):
    """What amqtt does by itself."""

    name = "amqtt"
    title = "plain amqtt"
    ack_means = "in memory, not yet routed"

    def missing(self) -> str:
        """A package of the environment that Tideline itself needs."""
        if importlib.util.find_spec("amqtt") is None:
            return "amqtt is not installed: pip install amqtt uvloop"
        return ""

    def version(self) -> str:
        """The installed package's."""
        return importlib.metadata.version("amqtt")

    def command(self) -> list[str]:
        """A script that starts its broker class."""
        return [sys.executable, "-m", "bench.peers.amqtt_server", str(self.port)]
