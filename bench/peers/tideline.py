"""Tideline itself: `python -m broker.cli serve` with a configuration made here."""

from __future__ import annotations

import argparse
import base64
import hashlib
import secrets
import shutil
import sys
from pathlib import Path
from typing import ClassVar

from bench import users
from bench.peers.base import Peer

_SOURCES = Path(__file__).resolve().parents[2]
_COMPILED = _SOURCES / "build" / "compiled"


def interpreter(text: str) -> str:
    """What ``--python`` names, for argparse: refused where it cannot be run."""
    if shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no program that can be run: name a Python, or a script that starts one")
    return text


class Tideline(Peer):
    """The broker under test, on its embedded SQLite store."""

    name = "tideline"
    title = "Tideline"
    tree: ClassVar[Path] = _COMPILED if (_COMPILED / ".stamp").exists() else _SOURCES
    """Where the broker is imported from: what `make compile` made, if it was run."""
    python: ClassVar[str] = sys.executable
    """What the broker runs in; the load generator stays in ours."""
    ack_means = "fsync'd in the store and in every recipient's inbox"
    transports = ("tcp", "tls", "ws")
    may_rule = True

    def __init__(self, *, message_properties: str = "asked", before: tuple[str, ...] = ()) -> None:
        """``message_properties`` as in config.yaml; ``before`` goes between the interpreter and `-m broker.cli`."""
        super().__init__()
        self._message_properties = message_properties
        self._before = before

    def version(self) -> str:
        """Which build it is."""
        return "pure Python" if self.tree == _SOURCES else "compiled core"

    def environment(self) -> dict[str, str]:
        """Import from the tree, which `-P` lets come first."""
        return {"PYTHONPATH": str(self.tree)}

    @property
    def storage_url(self) -> str:
        """Where its data is."""
        return f"sqlite:///{self.home}/tideline.db"

    def more_plugins(self) -> str:
        """Further lines below ``plugins``."""
        return ""

    def access(self) -> str:
        """The lines that say who may come in, and what it may do then."""
        if not self.ruled:
            return "  amqtt.plugins.authentication.AnonymousAuthPlugin: {allow_anonymous: true}\n"
        passwords, rules = users.write(self.home)
        return f'  passwords: {{file: "{passwords}"}}\n  acl: {{acl_file: "{rules}"}}\n'

    def command(self) -> list[str]:
        """Defaults but for the address, the data and the log level."""
        listener = f'name: bench, type: tcp, bind: "127.0.0.1:{self.port}"'
        if self.transport == "tls":
            certificate, key = self.certificate()
            listener += f', tls: {{certfile: "{certificate}", keyfile: "{key}"}}'
        elif self.transport == "ws":
            listener = listener.replace("tcp", "ws")
        settings = f"""\
listeners:
  - {{{listener}}}
mqtt:
  message_properties: {self._message_properties}
log: {{level: warning}}
plugins:
{self.access()}  persistence: {{url: "{self.storage_url}"}}
  sync: {{}}
  sys: {{interval: 10}}
{self.more_plugins()}"""
        path = self.home / "config.yaml"
        path.write_text(settings)
        return [self.python, "-P", *self._before, "-m", "broker.cli", "serve", "--config", str(path)]


class TidelinePure(Tideline):
    """Tideline as it is where nothing was compiled."""

    name = "tideline-pure"
    title = "Tideline in pure Python"
    tree = _SOURCES


class TidelineOneUser(Tideline):
    """Tideline with a password file, and one user whose devices the subscribers are."""

    name = "tideline-one-user"
    title = "Tideline, one user"
    _USER = "fleet"

    def __init__(self) -> None:
        super().__init__()
        self._password = secrets.token_urlsafe(32)

    def login(self) -> dict[str, str]:
        """One credential for all."""
        return {"user": self._USER, "password": self._password}

    def more_plugins(self) -> str:
        """Publishers stay anonymous."""
        path = self.home / "passwords"
        digest = base64.b64encode(hashlib.sha256(self._password.encode()).digest()).decode()
        path.write_text(f"{self._USER}:$sha256${digest}\n")
        return f'  passwords: {{file: "{path}", anonymous: true}}\n'


class TidelineGuarded(Tideline):
    """Tideline with a user whose password takes its time to check, and whom somebody tries to be."""

    name = "tideline-guarded"
    title = "Tideline, passwords"

    def more_plugins(self) -> str:
        """The others stay anonymous. What no password has is guessed in vain: only the cost of the hash counts."""
        path = self.home / "passwords"
        path.write_text("victim:$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43 + "\n")
        return f'  passwords: {{file: "{path}", anonymous: true}}\n'


class TidelineInMemory(Tideline):
    """Tideline on its bounded memory store: the protocol's and the pipeline's share of the cost. Only run when asked for."""

    name = "tideline-memory"
    title = "Tideline memory"
    ack_means = "in memory, with persistence: memory://"

    @property
    def storage_url(self) -> str:
        """Nothing is kept."""
        return "memory://"
