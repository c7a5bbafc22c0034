"""What the broker counts: plain integers that only rise, bumped by the core and read by whoever publishes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Counters:
    """Since the broker started. As in mosquitto, ``messages_*`` count packets of every type, ``publish_*`` PUBLISH packets."""

    bytes_received: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    control_sent: int = 0
    """Packets sent that are not PUBLISH."""
    publish_received: int = 0
    publish_sent: int = 0
    publish_dropped: int = 0
    """Deliveries that no socket took: QoS 0 to a client that is too slow, and what nobody may receive."""
    publish_bytes_received: int = 0
    """Payload bytes of PUBLISH packets received."""
    publish_bytes_sent: int = 0
    messages_stored: int = 0
    """Messages that a commit made durable."""
    connections_total: int = 0
    """Sockets that were accepted and served."""
    connections_refused: int = 0
    """Sockets closed at once because a listener's ``max_connections`` was reached, or no file descriptor was left."""
    handshakes_failed: int = 0
    """Sockets that did not get as far as MQTT: the TLS or WebSocket handshake failed, or the client speaks something else."""
    clients_connected: int = 0
    """CONNECTs that were answered with success."""
    clients_refused: int = 0
    """CONNECTs that were answered with a refusal."""
    clients_expired: int = 0
    """Durable sessions removed because they expired."""
    groups: int = 0
    """Group commits."""
    group_messages: int = 0
    """Messages in them."""
    storage_errors: int = 0
    """Commits that failed and were, or will be, tried again."""
    messages_removed: int = 0
    """Messages that retention removed from their conversations."""
    entries_lost: int = 0
    """Inbox entries of messages that retention removed although a device had not acknowledged them, as it was told to."""
    entries_trimmed: int = 0
    """Acknowledged entries that were removed from inboxes."""
    hook_errors: int = 0
    """Plugin hooks that raised or took too long."""
    hook_skipped: int = 0
    """Groups that a plugin did not see after the ack, because it was too far behind."""
    events_dropped: int = 0
    """Plugin events dropped because the plugins were too slow."""
    acl_denied: int = 0
    """What clients were refused: messages that they published, filters that they asked for, messages due to them."""
    slow_disconnects: int = 0
    """Clients disconnected because they read too slowly."""
    protocol_errors: int = 0
    """Connections closed because of what the client sent."""
    keep_alive_timeouts: int = 0
    takeovers: int = 0

    @property
    def messages_sent(self) -> int:
        """Packets sent, of every type."""
        return self.control_sent + self.publish_sent
