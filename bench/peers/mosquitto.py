"""Mosquitto, with Debian's persistence settings: in memory, saved to disk every 30 minutes."""

from __future__ import annotations

import getpass

from bench import users
from bench.peers.base import Peer, program


class Mosquitto(Peer):
    """The mark to beat for a broker that keeps everything in memory."""

    name = "mosquitto"
    title = "Mosquitto"
    package = "mosquitto"
    ack_means = "in memory (saved every 30 min)"
    may_rule = True
    transports = ("tcp", "tls")  # Debian builds it without WebSockets

    def command(self) -> list[str]:
        """No limit on queues, so that nothing is dropped; in-flight window 100 as Tideline's."""
        settings = f"""\
listener {self.port} 127.0.0.1
allow_anonymous true
user {getpass.getuser()}
persistence true
persistence_location {self.home}/
autosave_interval 1800
max_inflight_messages 100
max_queued_messages 0
max_queued_bytes 0
log_type error
log_type warning
"""
        if self.transport == "tls":
            certificate, key = self.certificate()
            settings = settings.replace("\n", f"\ncertfile {certificate}\nkeyfile {key}\n", 1)
        if self.ruled:
            passwords, rules = users.write(self.home)
            ruled = f"allow_anonymous false\npassword_file {passwords}\nacl_file {rules}"
            settings = settings.replace("allow_anonymous true", ruled)
        path = self.home / "mosquitto.conf"
        path.write_text(settings)
        return [program("mosquitto"), "-c", str(path)]
