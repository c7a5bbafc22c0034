"""What the broker counts: plain integers that only rise, bumped by the core and read by whoever publishes them (`$SYS` and
`/metrics`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.histogram import GROUP, Histogram


@dataclass(slots=True, eq=False)
class Counters:
    """Since the broker started. As in mosquitto, ``messages_*`` count packets of every type, ``publish_*`` PUBLISH packets."""

    bytes_received: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    control_sent: int = 0
    """Packets sent that are not PUBLISH."""
    publish_received_0: int = 0
    """PUBLISH packets received of QoS 0, and so on. An attribute each: in the compiled core that is faster than a list."""
    publish_received_1: int = 0
    publish_received_2: int = 0
    publish_sent_0: int = 0
    publish_sent_1: int = 0
    publish_sent_2: int = 0
    publish_dropped: int = 0
    """Deliveries that no socket took: QoS 0 to a client that is too slow, and what nobody may receive."""
    publish_bytes_received_0: int = 0
    """Payload bytes of PUBLISH packets received of QoS 0, and so on."""
    publish_bytes_received_1: int = 0
    publish_bytes_received_2: int = 0
    publish_bytes_sent_0: int = 0
    publish_bytes_sent_1: int = 0
    publish_bytes_sent_2: int = 0
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
    commit_seconds: Histogram = field(default_factory=Histogram)
    """How long commits take, each until storage has it."""
    ack_seconds: Histogram = field(default_factory=Histogram)
    """From the arrival of a message to its acknowledgement. Measured once a group, of its oldest message, and counted for each
    of its messages: so it is never less than what a publisher waits within the broker."""
    delivery_seconds: Histogram = field(default_factory=Histogram)
    """The same to the socket of a subscriber that keeps up, counted for each PUBLISH written. What waits for a subscriber, or
    is read from storage, is not in it: that is lag."""
    group_size: Histogram = field(default_factory=lambda: Histogram(GROUP))
    """Messages of a group; a group of steps alone is none."""
    hook_seconds: dict[str, Histogram] = field(default_factory=dict)
    """How long plugins take with a group before its acknowledgement, by plugin."""

    def received(self, qos: int, size: int) -> None:
        """A PUBLISH came with so many bytes of payload."""
        if qos == 0:
            self.publish_received_0 += 1
            self.publish_bytes_received_0 += size
        elif qos == 1:
            self.publish_received_1 += 1
            self.publish_bytes_received_1 += size
        else:
            self.publish_received_2 += 1
            self.publish_bytes_received_2 += size

    def sent(self, qos: int, size: int) -> None:
        """A PUBLISH is written."""
        if qos == 0:
            self.publish_sent_0 += 1
            self.publish_bytes_sent_0 += size
        elif qos == 1:
            self.publish_sent_1 += 1
            self.publish_bytes_sent_1 += size
        else:
            self.publish_sent_2 += 1
            self.publish_bytes_sent_2 += size

    @property
    def publish_received(self) -> int:
        return self.publish_received_0 + self.publish_received_1 + self.publish_received_2

    @property
    def publish_sent(self) -> int:
        return self.publish_sent_0 + self.publish_sent_1 + self.publish_sent_2

    @property
    def publish_bytes_received(self) -> int:
        return self.publish_bytes_received_0 + self.publish_bytes_received_1 + self.publish_bytes_received_2

    @property
    def publish_bytes_sent(self) -> int:
        return self.publish_bytes_sent_0 + self.publish_bytes_sent_1 + self.publish_bytes_sent_2

    # How often a limit was reached (docs/limits.md): what somebody was refused, or had to wait for.
    limit_connections: int = 0
    """Sockets closed at once: ``max_connections`` of a listener or of all."""
    limit_connections_per_address: int = 0
    limit_connections_per_user: int = 0
    limit_connect_rate: int = 0
    limit_connect_pace: int = 0
    """CONNECTs that waited for their turn, as messages came or went."""
    limit_failed_logins: int = 0
    """Logins that were not tried, because too many from that address had failed."""
    limit_publish_rate: int = 0
    """Times that a client was read more slowly, or disconnected, for the number of its messages."""
    limit_publish_bytes: int = 0
    """The same for their size."""
    limit_subscriptions: int = 0
    """Filters refused."""
    limit_inflight: int = 0
    """Times that a delivery waited because the in-flight window was full."""
    limit_receive_maximum: int = 0
    """Clients disconnected for more unacknowledged messages than they were told."""
    limit_packet_size: int = 0
    """Clients disconnected for a packet that was too large."""
    limit_queued_bytes: int = 0
    """Messages that nothing stores and that a client's full socket did not take: dropped (QoS 0), or the client's end."""
    limit_http_rate: int = 0
    """HTTP requests answered 429."""
    limit_http_body: int = 0
    """HTTP requests answered 413."""
    limit_http_waiting: int = 0
    """HTTP calls that could not wait, as too many did."""

    @property
    def messages_sent(self) -> int:
        """Packets sent, of every type."""
        return self.control_sent + self.publish_sent
