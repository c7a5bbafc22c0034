"""Tideline itself: `python -m broker.cli serve` with a configuration made here."""

from __future__ import annotations

import sys

from bench.peers.base import Peer


class Tideline(Peer):
    """The broker under test, on its embedded SQLite store."""

    name = "tideline"
    title = "Tideline"
    ack_means = "fsync'd in the store and in every recipient's inbox"

    def __init__(self, *, message_properties: str = "asked", before: tuple[str, ...] = ()) -> None:
        """``message_properties`` as in config.yaml; ``before`` goes between the interpreter and `-m broker.cli`."""
        super().__init__()
        self._message_properties = message_properties
        self._before = before

    @property
    def storage_url(self) -> str:
        """Where its data is."""
        return f"sqlite:///{self.home}/tideline.db"

    def command(self) -> list[str]:
        """Defaults but for the address, the data and the log level."""
        settings = f"""\
listeners:
  - {{name: bench, type: tcp, bind: "127.0.0.1:{self.port}"}}
mqtt:
  message_properties: {self._message_properties}
log: {{level: warning}}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin: {{allow_anonymous: true}}
  persistence: {{url: "{self.storage_url}"}}
  sync: {{}}
  sys: {{interval: 10}}
"""
        path = self.home / "config.yaml"
        path.write_text(settings)
        return [sys.executable, *self._before, "-m", "broker.cli", "serve", "--config", str(path)]


class TidelineInMemory(Tideline):
    """Tideline on its bounded memory store: the protocol's and the pipeline's share of the cost. Only run when asked for."""

    name = "tideline-memory"
    title = "Tideline memory"
    ack_means = "in memory, as Tideline without persistence"

    @property
    def storage_url(self) -> str:
        """Nothing is kept."""
        return "memory://"
