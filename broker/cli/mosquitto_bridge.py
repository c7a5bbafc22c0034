"""What becomes of a bridge's options in a mosquitto.conf: a table, as `mosquitto_options`, of which it is a part."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from broker.cli.mosquitto_conf import Conversion, Line

Entry = Callable[[Conversion, Line], str | None]

_VERSIONS = {"mqttv311": 4, "mqttv50": 5}
_OUTSIDE = "belongs to a connection, and there is none above it"


def connection(conversion: Conversion, line: Line) -> str | None:
    """A bridge begins."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", line.value)[:64]
    conversion.bridge = {"name": name, "address": "", "protocol": 4, "send": [], "receive": []}
    conversion.bridges.append((line, conversion.bridge))
    return None if name == line.value else f"is called {name} here"


def _of(change: Callable[[dict[str, Any], str], str | None]) -> Entry:
    """An option of the bridge above it."""

    def entry(conversion: Conversion, line: Line) -> str | None:
        return _OUTSIDE if conversion.bridge is None else change(conversion.bridge, line.value)

    return entry


def _put(name: str) -> Entry:
    def change(bridge: dict[str, Any], value: str) -> None:
        bridge[name] = value

    return _of(change)


def _tls(name: str) -> Entry:
    def change(bridge: dict[str, Any], value: str) -> None:
        bridge["tls"] = True
        bridge[name] = value

    return _of(change)


def _needless(bridge: dict[str, Any], value: str) -> None:
    """It is so anyway, or means nothing here."""


def _lost(why: str) -> Entry:
    return _of(lambda bridge, value: why)


def _unless(wanted: str, why: str) -> Entry:
    return _of(lambda bridge, value: None if value == wanted else why)


def _address(bridge: dict[str, Any], value: str) -> str | None:
    first, *others = value.split()
    bridge["address"] = first if re.search(r":\d+$", first) else f"{first}:1883"
    return f"one address: {bridge['address']}" if others else None


def _keep_alive(bridge: dict[str, Any], value: str) -> str | None:
    if not value.isdigit() or not 5 <= int(value) <= 65535:
        return "must be 5 to 65535 seconds"
    bridge["keep_alive"] = int(value)
    return None


def _version(bridge: dict[str, Any], value: str) -> str | None:
    bridge["protocol"] = _VERSIONS.get(value, 4)
    return None if value in _VERSIONS else "MQTT 3.1.1 is the oldest"


def _topic(bridge: dict[str, Any], value: str) -> str | None:
    parts = ["" if part == '""' else part for part in value.split()]
    filter, direction, qos, local, remote = (*parts, *("", "out", "0", "", "")[len(parts) :])[:5]
    if direction not in ("in", "out", "both"):
        return "the direction must be in, out or both"
    route = {name: part for name, part in (("filter", filter), ("local", local), ("remote", remote)) if part}
    if not filter:
        return "a topic without a filter: name it whole, and no prefixes"
    for list_, directions in (("send", ("out", "both")), ("receive", ("in", "both"))):
        if direction in directions:
            bridge[list_].append(route)
    return "goes at QoS 1, so that it may come twice" if qos == "2" else None


_FILES = "certificates are PEM files: bridge_cafile"

BRIDGE_OPTIONS: dict[str, Entry] = {
    "connection": connection,
    "address": _of(_address),
    "addresses": _of(_address),
    "topic": _of(_topic),
    "bridge_protocol_version": _of(_version),
    "clientid": _put("client_id"),
    "remote_clientid": _put("client_id"),
    "username": _put("username"),
    "remote_username": _put("username"),
    "password": _put("password"),
    "remote_password": _put("password"),
    "keepalive_interval": _of(_keep_alive),
    "bridge_cafile": _tls("cafile"),
    "bridge_certfile": _tls("certfile"),
    "bridge_keyfile": _tls("keyfile"),
    "bridge_capath": _lost(_FILES),
    "bridge_identity": _lost(_FILES),
    "bridge_psk": _lost(_FILES),
    "bridge_alpn": _lost("there is no ALPN"),
    "bridge_insecure": _unless("false", "certificates are always checked, names too"),
    "bridge_require_ocsp": _unless("false", "OCSP is not asked for"),
    "bridge_tls_version": _of(lambda bridge, value: None if value in ("tlsv1.2", "tlsv1.3") else "TLS 1.2 is the oldest"),
    "bridge_bind_address": _lost("the system chooses the address to call from"),
    "bridge_max_packet_size": _unless("0", "there is no such limit"),
    "bridge_outgoing_retain": _unless("true", "what is retained stays retained"),
    "cleansession": _unless("false", "the other broker keeps a session: nothing is lost while one is away"),
    "notifications": _unless("false", "no state is published; GET /v1/bridges tells it"),
    "notification_topic": _lost("no state is published; GET /v1/bridges tells it"),
    "round_robin": _unless("false", "one address"),
    "start_type": _unless("automatic", "a bridge is always up"),
    **dict.fromkeys(
        (
            *("bridge_attempt_unsubscribe", "idle_timeout", "local_cleansession", "local_clientid", "local_password"),
            *("local_username", "notifications_local_only", "restart_timeout", "threshold", "try_private"),
        ),
        _of(_needless),
    ),
}
"""Option → what becomes of it."""
