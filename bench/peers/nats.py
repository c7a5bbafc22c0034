"""NATS with JetStream's MQTT, defaults: file storage, fsync every two minutes."""

from __future__ import annotations

from bench.peers.base import Peer, free_port, program


class Nats(Peer):
    """The nearest relative: streams on disk behind MQTT."""

    name = "nats"
    title = "NATS JetStream"
    package = "nats-server"
    ack_means = "in the OS's file cache (fsync every 2 min)"
    transports = ("tcp", "tls", "ws")

    def command(self) -> list[str]:
        """MQTT needs a server name and JetStream; everything else stays as it comes."""
        mqtt, more = f"host: 127.0.0.1, port: {self.port}", ""
        if self.transport == "tls":
            certificate, key = self.certificate()
            mqtt += f', tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
        elif self.transport == "ws":
            mqtt = f"host: 127.0.0.1, port: {free_port()}"
            more = f"websocket {{ host: 127.0.0.1, port: {self.port}, no_tls: true }}\n"
        settings = f"""\
host: 127.0.0.1
port: {free_port()}
server_name: bench
jetstream {{ store_dir: "{self.home}/jetstream" }}
mqtt {{ {mqtt} }}
{more}"""
        path = self.home / "nats.conf"
        path.write_text(settings)
        return [program("nats-server"), "-c", str(path)]
