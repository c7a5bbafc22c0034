"""RabbitMQ with its MQTT plugin and durable queues, as a node of its own beside any that is installed.

Debian's wrapper in /usr/sbin changes to the user rabbitmq; the script behind it runs as whoever calls it.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from bench.peers.base import Peer, PeerError, free_port, program

_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitMQ(Peer):
    """Messages for durable sessions are persistent in classic queues."""

    name = "rabbitmq"
    title = "RabbitMQ MQTT"
    package = "rabbitmq-server"
    ack_means = "queued (on disk after a moment)"
    start_timeout = 90.0

    def __init__(self) -> None:
        """Not started."""
        super().__init__()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._epmd_port = 0

    def missing(self) -> str:
        """Debian's package, and the script inside it."""
        if hint := super().missing():
            return hint
        return "" if _SCRIPT.exists() else f"{_SCRIPT} is not there: only Debian's package is known here"

    def prepare(self) -> None:
        """Erlang's name server on a port of its own, so that it ends with us."""
        self._epmd_port = free_port()
        self._epmd = subprocess.Popen(
            [program("epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.3)
        if self._epmd.poll() is not None:
            raise PeerError(f"epmd did not start on port {self._epmd_port}")

    def environment(self) -> dict[str, str]:
        """Everything that would otherwise be shared with a node of the system."""
        return {
            "HOME": str(self.home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"bench{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_PID_FILE": str(self.home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "rabbitmq-env.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_LOGS": "-",
        }

    def command(self) -> list[str]:
        """Anonymous clients over the guest user; prefetch 100 as Tideline's window (the default of 10 is slower)."""
        (self.home / "rabbitmq-env.conf").write_text("")
        (self.home / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        (self.home / "rabbitmq.conf").write_text(
            f"""\
listeners.tcp.local = 127.0.0.1:{free_port()}
mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}
mqtt.allow_anonymous = true
mqtt.prefetch = 100
mqtt.subscription_ttl = 86400000
log.console.level = error
log.file = false
disk_free_limit.absolute = 50MB
"""
        )
        return [str(_SCRIPT)]

    def clean_up(self) -> None:
        """Erlang's name server ends last."""
        if self._epmd is not None:
            self._epmd.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._epmd.wait(5)
            self._epmd = None
