"""What becomes of each option of mosquitto.conf(5), version 2.0: a table.

An entry changes the `Conversion` and answers what is lost, in words; None or nothing where nothing is."""

from __future__ import annotations

import re
from collections.abc import Callable

from broker.cli.mosquitto_bridge import BRIDGE_OPTIONS
from broker.cli.mosquitto_conf import Conversion, Line, ListenerLines, address

Entry = Callable[[Conversion, Line], str | None]

_ALL_LISTENERS = "one for all listeners here"
_HASH = {"h": 3600, "d": 86400, "w": 604800, "m": 2592000, "y": 31536000}
_TYPES = {"error": "error", "warning": "warning", "notice": "info", "information": "info", "debug": "debug", "all": "debug"}


def needless(conversion: Conversion, line: Line) -> None:
    """Tideline does so anyway, or it means nothing here."""


def lost(why: str) -> Entry:
    """There is nothing like it."""
    return lambda conversion, line: why


def unless(value: str, why: str) -> Entry:
    """Lost, but for the value that says what Tideline does anyway."""
    return lambda conversion, line: None if line.value == value else why


def mqtt(name: str, least: int, most: int, none: int | None = None) -> Entry:
    """A number of the section ``mqtt``, from ``least`` to ``most``. 0 is ``none``."""

    def entry(conversion: Conversion, line: Line) -> str | None:
        number = _number(line.value)
        if number is None:
            return "must be a whole number"
        wanted = none if not number and none is not None else min(max(number, least), most)
        section = conversion.sections["mqtt"]
        if section.setdefault(name, wanted) != wanted:
            return f"{_ALL_LISTENERS}: mqtt.{name} is {section[name]}"
        return None if number in (wanted, 0) else f"must be {least} to {most} here: mqtt.{name} is {wanted}"

    return entry


def security(conversion: Conversion, line: Line) -> str | None:
    """password_file and the like, which are for all listeners."""
    known = conversion.security.setdefault(line.option, line.value)
    return None if known == line.value else f"{_ALL_LISTENERS}: {line.option} {known}"


def tls(name: str) -> Entry:
    """A setting of a listener's ``tls``."""

    def entry(conversion: Conversion, line: Line) -> None:
        _at(conversion, line).tls[name] = line.value

    return entry


def _at(conversion: Conversion, line: Line) -> ListenerLines:
    """The listener that the line is about."""
    listener = conversion.listener
    listener.place = listener.place or line.place
    return listener


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _listener(conversion: Conversion, line: Line) -> str | None:
    port, _, host = line.value.partition(" ")
    host, number = host.strip(), _number(port)
    conversion.bridge = None
    conversion.listener = made = ListenerLines(number or 0, host, line.place)
    if host.startswith("/") and not number:
        made.port, made.host = 0, f"unix:{host}"
    elif number is None or not 0 < number <= 65535:
        return "must be a port, and maybe an address"
    elif host and (wrong := address(host)):
        return wrong
    conversion.listeners.append(made)
    return None


def _port(conversion: Conversion, line: Line) -> str | None:
    number = _number(line.value)
    if number is None or not 0 < number <= 65535:
        return "must be a port"
    conversion.default.place, conversion.default.port = line.place, number
    return None


def _bind_address(conversion: Conversion, line: Line) -> str | None:
    if wrong := address(line.value):
        return wrong
    conversion.default.place, conversion.default.host = line.place, line.value
    return None


def _protocol(conversion: Conversion, line: Line) -> str | None:
    if line.value not in ("mqtt", "websockets"):
        return "must be mqtt or websockets"
    _at(conversion, line).type = "ws" if line.value == "websockets" else "tcp"
    return None


def _max_connections(conversion: Conversion, line: Line) -> str | None:
    number = _number(line.value)
    if number is None:
        return "must be a whole number"
    _at(conversion, line).options["max_connections"] = max(number, 0)  # -1 is no limit, as 0 is here
    return "0 lets nobody in there, and is no limit here: leave the listener out" if number == 0 else None


def _socket_domain(conversion: Conversion, line: Line) -> None:
    _at(conversion, line).ipv6 = line.value == "ipv6"


def _cafile(conversion: Conversion, line: Line) -> None:
    _at(conversion, line).cafile = line.value


def _require_certificate(conversion: Conversion, line: Line) -> None:
    _at(conversion, line).require_certificate = line.value == "true"


def _identity(kind: str) -> Entry:
    def entry(conversion: Conversion, line: Line) -> None:
        if line.value == "true":
            _at(conversion, line).identity = kind

    return entry


def _tls_version(conversion: Conversion, line: Line) -> str | None:
    if line.value == "tlsv1.3":
        _at(conversion, line).tls["min_version"] = "1.3"
    return None if line.value in ("tlsv1.2", "tlsv1.3") else "TLS 1.2 is the oldest that is spoken"


def _max_qos(conversion: Conversion, line: Line) -> str | None:
    return None if line.value == "2" else "QoS 0, 1 and 2 are always there"


def _persistence(conversion: Conversion, line: Line) -> None:
    conversion.kept = line.value in ("true", "1")


def _location(conversion: Conversion, line: Line) -> str | None:
    conversion.location = line.value.rstrip("/") or "/"
    return "data goes there, but sessions and retained messages of Mosquitto's own database do not come along"


def _client_expiration(conversion: Conversion, line: Line) -> str | None:
    match = re.fullmatch(r"(\d{1,6})([hdwmy])", line.value)
    if match is None:
        return "must be a number and h, d, w, m or y"
    conversion.sections["mqtt"]["max_session_expiry"] = min(int(match[1]) * _HASH[match[2]], 0xFFFFFFFE)
    return None


def _sys_interval(conversion: Conversion, line: Line) -> str | None:
    conversion.sys = _number(line.value)
    return "must be a whole number of seconds" if conversion.sys is None or conversion.sys < 0 else None


def _retain_available(conversion: Conversion, line: Line) -> None:
    conversion.sections["mqtt"]["retain_available"] = line.value == "true"


def _log_type(conversion: Conversion, line: Line) -> str | None:
    if line.value in _TYPES:
        conversion.log_types.add(_TYPES[line.value])
        return None
    return (
        "errors are always logged" if line.value == "none" else "at level debug, if at all (tideline trace is for one client)"
    )


def _log_dest(conversion: Conversion, line: Line) -> str | None:
    return (
        None if line.value in ("stderr", "stdout") else "the log goes to standard error; systemd's journal or a file takes it"
    )


def _per_listener(conversion: Conversion, line: Line) -> str | None:
    return "passwords and rules are for all listeners here" if line.value == "true" else None


_PLUGIN = "plugins of Mosquitto do not load here; users in storage: tideline user, rules: tideline acl"
_ENGINE = "keys are PEM files here"
_PSK = "there is no TLS with pre-shared keys"

OPTIONS: dict[str, Entry] = {
    # who may do what
    "acl_file": security,
    "allow_anonymous": security,
    "password_file": security,
    "per_listener_settings": _per_listener,
    "allow_zero_length_clientid": unless("true", "a client without an id always gets one"),
    "auto_id_prefix": lost("the ids that the broker gives have no prefix"),
    "auth_plugin": lost(_PLUGIN),
    "plugin": lost(_PLUGIN),
    "auth_plugin_deny_special_chars": needless,
    "check_retain_source": unless("false", "a retained message stays, whatever its publisher may do now"),
    "clientid_prefixes": lost("client ids are not looked at; use {client} in rules"),
    "psk_file": lost(_PSK),
    "user": lost("the broker runs as whom it is started by: User= of its service"),
    # what is kept
    "autosave_interval": needless,
    "autosave_on_changes": needless,
    "persistence": _persistence,
    "retained_persistence": _persistence,
    "persistence_file": needless,
    "persistence_location": _location,
    "persistent_client_expiration": _client_expiration,
    "queue_qos0_messages": unless("true", "QoS 0 messages, too, wait for a device that is away"),
    "retain_available": _retain_available,
    "retain_expiry_interval": lost("retained messages have no age; publishers may set the message expiry of MQTT 5"),
    # limits
    "max_inflight_bytes": unless("0", "what is in flight is limited by number: mqtt.inflight_window"),
    "max_inflight_messages": mqtt("inflight_window", 1, 65535, 65535),
    "max_keepalive": mqtt("max_keep_alive", 0, 65535),
    "max_packet_size": mqtt("max_packet_size", 128, 268435460, 268435460),
    "max_queued_bytes": unless("0", "a device's backlog is in storage, and no message is dropped; see jobs.inboxes"),
    "max_queued_messages": unless("0", "a device's backlog is in storage, and no message is dropped; see jobs.inboxes"),
    "max_topic_alias": mqtt("topic_alias_maximum", 0, 65535),
    "memory_limit": unless("0", "memory is bounded by limits, each for one thing"),
    "message_size_limit": unless("0", "the whole packet is limited: mqtt.max_packet_size"),
    # the log and the process
    "connection_messages": unless("true", "who connects and leaves is logged at level debug"),
    "include_dir": needless,
    "log_dest": _log_dest,
    "log_facility": lost("the log goes to standard error"),
    "log_timestamp": needless,
    "log_timestamp_format": needless,
    "log_type": _log_type,
    "pid_file": lost("there is none: systemd knows the process"),
    "sys_interval": _sys_interval,
    # the protocol
    "allow_duplicate_messages": needless,
    "retry_interval": needless,
    "set_tcp_nodelay": needless,
    "upgrade_outgoing_qos": unless("false", "a message never has a higher QoS than it was published with"),
    # listeners
    "bind_address": _bind_address,
    "bind_interface": lost("bind to an address of the interface"),
    "http_dir": lost("files are not served"),
    "listener": _listener,
    "max_connections": _max_connections,
    "max_qos": _max_qos,
    "maximum_qos": _max_qos,
    "mount_point": lost("topics are the same on all listeners"),
    "port": _port,
    "protocol": _protocol,
    "socket_domain": _socket_domain,
    "use_username_as_clientid": unless("false", "client ids are the clients'; sessions belong to a user all the same"),
    "websockets_headers_size": needless,
    "websockets_log_level": needless,
    # certificates
    "cafile": _cafile,
    "capath": lost("put the authorities' certificates into one file: tls.cafile"),
    "certfile": tls("certfile"),
    "ciphers": tls("ciphers"),
    "ciphers_tls1.3": lost("TLS 1.3 has OpenSSL's own choice"),
    "crlfile": tls("crlfile"),
    "dhparamfile": needless,
    "keyfile": tls("keyfile"),
    "psk_hint": lost(_PSK),
    "require_certificate": _require_certificate,
    "tls_engine": lost(_ENGINE),
    "tls_engine_kpass_sha1": lost(_ENGINE),
    "tls_keyform": unless("pem", _ENGINE),
    "tls_version": _tls_version,
    "use_identity_as_username": _identity("cn"),
    "use_subject_as_username": _identity("dn"),
    **BRIDGE_OPTIONS,
}
"""Option → what becomes of it."""


def take(conversion: Conversion, line: Line) -> None:
    """Carry one line over, or note that it was not."""
    entry = OPTIONS.get(line.option)
    if entry is None and line.option.startswith(("plugin_opt_", "auth_opt_")):
        entry = lost(_PLUGIN)
    why = entry(conversion, line) if entry is not None else "no option of Mosquitto 2.0"
    if why:
        conversion.note(line, why)
