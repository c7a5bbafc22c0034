"""The counters of the core as metrics: one table. No I/O.

Names are Prometheus's: ``tideline_<what>_<unit>``; a counter ends in ``_total``, which the exposition adds.
"""

from __future__ import annotations

from typing import NamedTuple


class Counted(NamedTuple):
    """A counter: the metric's name without ``_total``, what it says, its labels, and its series as (values, attribute of
    `broker.counters.Counters`, or of what is named where they are)."""

    name: str
    help: str
    labels: tuple[str, ...]
    series: tuple[tuple[tuple[str, ...], str], ...]


class Measured(NamedTuple):
    """A histogram of the core; ``attribute`` is one `Histogram`, or a dict of them by the value of ``label``."""

    name: str
    help: str
    attribute: str
    label: str = ""


def _one(name: str, attribute: str, help: str) -> Counted:
    return Counted(name, help, (), (((), attribute),))


def _by_direction(name: str, help: str, received: str, sent: str) -> Counted:
    return Counted(name, help, ("direction",), ((("received",), received), (("sent",), sent)))


def _by_direction_and_qos(name: str, help: str, prefix: str) -> Counted:
    series = tuple(
        ((direction, str(qos)), f"{prefix}_{direction}_{qos}") for direction in ("received", "sent") for qos in (0, 1, 2)
    )
    return Counted(name, help, ("direction", "qos"), series)


LIMITS = (
    *("connections", "connections_per_address", "connections_per_user", "connect_rate", "connect_pace", "failed_logins"),
    *("publish_rate", "publish_bytes", "subscriptions", "inflight", "receive_maximum", "packet_size", "queued_bytes"),
    *("http_rate", "http_body", "http_waiting"),
)

COUNTERS = (
    _by_direction_and_qos("tideline_publish_packets", "PUBLISH packets.", "publish"),
    _by_direction_and_qos("tideline_publish_payload_bytes", "Payload bytes of PUBLISH packets.", "publish_bytes"),
    _by_direction("tideline_packets", "MQTT packets of every type.", "messages_received", "messages_sent"),
    _by_direction("tideline_network_bytes", "Bytes of MQTT, below TLS and WebSocket.", "bytes_received", "bytes_sent"),
    _one("tideline_publish_dropped", "publish_dropped", "Deliveries that no socket took, or that nobody may receive."),
    _one("tideline_messages_stored", "messages_stored", "Messages made durable."),
    _one("tideline_connections_accepted", "connections_total", "Sockets accepted and served."),
    _one("tideline_connections_refused", "connections_refused", "Sockets closed at once, for a limit was reached."),
    _one("tideline_handshakes_failed", "handshakes_failed", "Sockets that did not get as far as MQTT."),
    Counted(
        "tideline_connects",
        "CONNECTs answered.",
        ("result",),
        ((("accepted",), "clients_connected"), (("refused",), "clients_refused")),
    ),
    _one("tideline_sessions_expired", "clients_expired", "Durable sessions removed because they expired."),
    _one("tideline_takeovers", "takeovers", "Connections ended because the same device connected again."),
    _one("tideline_groups", "groups", "Group commits, also those without a message."),
    _one("tideline_storage_errors", "storage_errors", "Commits that failed, and are tried again."),
    _one("tideline_retention_removed_messages", "messages_removed", "Messages that retention removed."),
    _one("tideline_retention_lost_entries", "entries_lost", "Inbox entries removed though not acknowledged, as told."),
    _one("tideline_inbox_trimmed_entries", "entries_trimmed", "Acknowledged entries removed from inboxes."),
    _one("tideline_hook_errors", "hook_errors", "Plugin hooks that raised or took too long."),
    _one("tideline_hook_skipped_groups", "hook_skipped", "Groups that a plugin that is too slow did not see."),
    _one("tideline_events_dropped", "events_dropped", "Plugin events dropped because plugins were too slow."),
    _one("tideline_access_denied", "acl_denied", "Publishes, filters and deliveries that access control denied."),
    _one("tideline_slow_clients_disconnected", "slow_disconnects", "Clients disconnected because they read too slowly."),
    Counted(
        "tideline_limit_reached",
        "Times that a limit was reached (docs/limits.md).",
        ("limit",),
        tuple(((limit,), f"limit_{limit}") for limit in LIMITS),
    ),
    _one("tideline_protocol_errors", "protocol_errors", "Connections closed because of what the client sent."),
    _one("tideline_keep_alive_timeouts", "keep_alive_timeouts", "Connections closed because nothing was heard."),
)

WEBHOOKS = (
    Counted(
        "tideline_webhook_events",
        "Events that a webhook's service took, and that became dead letters.",
        ("name", "result"),
        ((("delivered",), "delivered"), (("dead",), "dead")),
    ),
    Counted("tideline_webhook_requests", "Requests to a webhook's service.", ("name",), (((), "requests"),)),
    Counted("tideline_webhook_failures", "Those that failed, and are tried again.", ("name",), (((), "failures"),)),
)
"""By attributes of `plugins.webhooks.hook.HookRunner`."""

BRIDGES = (
    Counted(
        "tideline_bridge_messages",
        "Messages that a bridge sent or received, or passed by.",
        ("name", "result"),
        tuple(((result,), result) for result in ("sent", "received", "refused", "loops", "dropped")),
    ),
)
"""By attributes of `plugins.bridge.bridge.BridgeRunner`."""

SCHEDULES = Counted(
    "tideline_schedules",
    "What was due, by what became of it (docs/schedules.md).",
    ("result",),
    tuple(((result,), result) for result in ("published", "skipped", "denied", "refused")),
)
"""By attributes of `plugins.schedules.runner.Runner`."""

ELSEWHERE = {"control_sent": "tideline_packets_total", "group_messages": "tideline_group_messages"}
"""Counters that are told within another metric."""

HISTOGRAMS = (
    Measured("tideline_commit_seconds", "Time of a group commit, until storage has it.", "commit_seconds"),
    Measured("tideline_ack_seconds", "From a message's arrival to its acknowledgement, of its group's oldest.", "ack_seconds"),
    Measured(
        "tideline_delivery_seconds", "From a message's arrival to a subscriber that keeps up, likewise.", "delivery_seconds"
    ),
    Measured("tideline_group_messages", "Messages of a group commit.", "group_size"),
    Measured("tideline_hook_seconds", "Time that a plugin took with a group before its commit.", "hook_seconds", "plugin"),
)
