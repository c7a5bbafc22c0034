"""Typed, validated settings: what config.yaml and ``TIDELINE__…`` environment variables may say.

Every field's docstring is its documentation; docs/configuration.md has one line for each, and a test holds config.yaml
equal to the defaults here. Sizes are bytes (or "16 MiB"), durations seconds (or "500ms", "10s", "5 min", "1h", "7d").
Relative paths are taken from the working directory.

Over 300 lines: one table of settings.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from broker.config import plugins as plugin_names
from broker.config import sources as config_sources
from broker.config.origins import checked_origin
from broker.config.plugins import default_plugins
from broker.config.sources import LARGEST, Sources, dotted, shown
from broker.config.sources import Path as Place
from broker.config.wording import suggest, wanted
from broker.errors import refuse
from broker.packets import ReasonCode


class ConfigError(Exception):
    """The configuration is wrong. ``problems`` has a line for each thing: where, what, and what would be right.

    ``sources`` is what was read, for who looks at what is not wrong (`broker.config.remainder`).
    """

    def __init__(self, problems: list[str], sources: Sources | None = None) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.sources = sources


# --- quantities ----------------------------------------------------------------------------------------------------

_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZES |= {"kb": 10**3, "mb": 10**6, "gb": 10**9}
_DURATIONS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def _quantity(value: object, units: Mapping[str, float], meant: str) -> object:
    if not isinstance(value, str):
        return value
    match = _QUANTITY.fullmatch(value)
    if not match or match[2].lower() not in units:
        raise ValueError(f"must be {meant}")
    number = float(match[1]) * units[match[2].lower()]
    return int(number) if number.is_integer() else number


def parse_size(value: object) -> object:
    """Bytes from ``"16 MiB"``, ``"64k"`` or a plain number; raises ValueError."""
    return _quantity(value, _SIZES, 'a size in bytes, such as 65536, "64 KiB" or "16 MiB"')


def parse_duration(value: object) -> object:
    """Seconds from ``"500ms"``, ``"5 min"`` or a plain number; raises ValueError."""
    return _quantity(value, _DURATIONS, 'a duration in seconds, such as 10, "500ms", "5 min" or "1h"')


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
WholeSeconds = Annotated[int, BeforeValidator(parse_duration)]


def _as_path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value


FilePath = Annotated[Path, BeforeValidator(_as_path)]


@lru_cache(maxsize=256)
def split_bind(bind: str) -> tuple[str, int]:
    """(host, port) of ``host:port`` or ``[ipv6]:port``; raises ValueError."""
    host, colon, port = bind.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        not colon
        or not host
        or not port.isascii()
        or not port.isdecimal()
        or int(port) > 65535
        or (":" in host and not bracketed)
    ):
        raise ValueError("must be host:port with a port of 0 to 65535, such as 127.0.0.1:1883 or [::1]:1883")
    return (host[1:-1] if bracketed else host), int(port)


_UNIX = "unix:"
_LONGEST_PATH = 107  # bytes of a Unix socket's path on Linux


def socket_path(bind: str) -> Path | None:
    """Where the file of a Unix socket is; None for ``host:port``."""
    return Path(bind.removeprefix(_UNIX)) if bind.startswith(_UNIX) else None


def checked_bind(value: str) -> str:
    """``host:port`` or ``unix:/path``; raises ValueError."""
    if not value.startswith(_UNIX):
        split_bind(value)
    elif not 0 < len(os.fsencode(value.removeprefix(_UNIX))) <= _LONGEST_PATH:
        raise ValueError(f"must be unix: and a path of {_LONGEST_PATH} bytes at most, such as unix:/run/tideline/mqtt.sock")
    return value


def checked_mode(value: str) -> str:
    """A file's mode; raises ValueError. As text, since a number would be ambiguous: YAML takes 0660 for 432."""
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('must be the mode of a file in octal digits, such as "660"')
    return value


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("must be an address or a network, such as 10.0.0.7, 10.0.0.0/24 or fd00::/8") from None


@lru_cache(maxsize=256)  # asked for each client that connects
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- the sections --------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """What all sections have in common: nothing unknown, nothing guessed, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_counted_with(cls, value: Any) -> Any:
        if isinstance(value, int | float) and value > LARGEST:
            raise ValueError(f"must be at most {LARGEST}")
        return value


def _as_version(value: object) -> object:
    return str(value) if isinstance(value, float) else value  # what YAML takes 1.2 for


def _ciphers(value: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(value or "DEFAULT")
    except ssl.SSLError:
        raise ValueError("must name ciphers as OpenSSL does, such as ECDHE+AESGCM (see openssl ciphers)") from None
    return value


class Tls(Section):
    """Certificates of a listener, as PEM files."""

    certfile: FilePath
    """The server's certificate, followed by its chain."""
    keyfile: FilePath | None = None
    """The private key; left out where it is in ``certfile``."""
    cafile: FilePath | None = None
    """The certificates that client certificates are verified against."""
    require_client_certificate: bool = False
    """Whether a client without a certificate signed by ``cafile`` is turned away."""
    crlfile: FilePath | None = None
    """The lists of client certificates that count no more, of each authority in ``cafile``."""
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_as_version)] = "1.2"
    """The oldest version of TLS that is spoken."""
    ciphers: Annotated[str, AfterValidator(_ciphers)] = ""
    """What TLS 1.2 may use, in OpenSSL's words; empty for ECDHE with AES-GCM or ChaCha20."""

    @model_validator(mode="after")
    def _client_certificates_need_an_authority(self) -> Tls:
        refuse(
            f"{name} needs cafile, the authority that signs client certificates"
            for name in ("require_client_certificate", "crlfile")
            if getattr(self, name) and self.cafile is None
        )
        return self


class Listener(Section):
    """One address where clients connect."""

    name: Annotated[str, Field(min_length=1)]
    """What the listener is called in logs and metrics."""
    type: Literal["tcp", "ws"] = "tcp"
    """``tcp``, or ``ws`` for MQTT over WebSocket; with ``tls`` they are TLS and secure WebSocket."""
    bind: Annotated[str, AfterValidator(checked_bind)]
    """``host:port``; port 0 takes a free one. ``unix:/path`` is a Unix socket."""
    mode: Annotated[str, AfterValidator(checked_mode)] = "660"
    """Who may connect to a Unix socket: its file's mode, in octal digits and quotes."""
    path: Annotated[str, Field(pattern="^/")] = "/mqtt"
    """The path of a WebSocket listener; means nothing to the others."""
    tls: Tls | None = None
    """Certificates; without them the listener is plain."""
    max_connections: Annotated[int, Field(ge=0)] = 100_000
    """Connections that may be open at once; more are closed at once. 0 is no limit."""
    reuse_port: bool = False
    """Let other processes of this user listen on the same port (``SO_REUSEPORT``); the kernel shares the connections out."""
    proxy_protocol: bool = False
    """Whether each connection begins with a PROXY header, version 1 or 2, which names the client's address."""
    proxy_from: list[Annotated[str, AfterValidator(_network)]] = []
    """The addresses of the proxies, such as ``10.0.0.0/24``; nobody else may connect."""
    anonymous: bool | None = None
    """Whether clients that no plugin verified may come in here, where `AnonymousAuthPlugin` lets them in at all. Left out: only
    where this machine alone can reach the listener."""
    identity: Literal["cn", "dn", "san-dns", "san-uri", "san-email"] | None = None
    """The name in a verified client certificate that is the client's user name, without a password."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> Listener:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[str]:
        vouched = self.tls is not None and self.tls.cafile is not None
        from_proxy = self.identity == "cn" and self.proxy_protocol and self.tls is None  # which ends TLS
        if self.identity is not None and not vouched and not from_proxy:
            yield "identity needs tls with cafile, the authority that signs client certificates"
        if self.proxy_protocol and not self.proxy_from and self.socket_path is None:
            yield "proxy_protocol needs proxy_from, the addresses of the proxies that may name a client's address"
        if self.proxy_from and not self.proxy_protocol:
            yield "proxy_from means nothing without proxy_protocol: true"

    @property
    def socket_path(self) -> Path | None:
        """Where the file of a Unix socket is; None for any other."""
        return socket_path(self.bind)

    @property
    def lets_anonymous(self) -> bool:
        """Whether clients that no plugin verified may come in."""
        return is_loopback(self.host) if self.anonymous is None else self.anonymous

    @property
    def host(self) -> str:
        """The host of ``bind``, without brackets; a Unix socket is reached from this machine only."""
        return "localhost" if self.socket_path is not None else split_bind(self.bind)[0]

    @property
    def port(self) -> int:
        """The port of ``bind``; 0 for a Unix socket."""
        return 0 if self.socket_path is not None else split_bind(self.bind)[1]


class Mqtt(Section):
    """The protocol's limits and choices."""

    max_packet_size: Annotated[Size, Field(ge=128, le=268_435_455 + 5)] = 1 << 20
    """Bytes of the largest packet that is accepted, its header included."""
    inflight_window: Annotated[int, Field(ge=1, le=65535)] = 100
    """QoS 1 and 2 messages a device may have unacknowledged; an MQTT 5 client's own receive maximum may lower it."""
    receive_maximum: Annotated[int, Field(ge=1, le=65535)] = 1000
    """QoS 1 and 2 publishes that an MQTT 5 client may have unacknowledged with us."""
    connect_timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """Seconds within which a new connection must have sent its CONNECT and been let in."""
    max_keep_alive: Annotated[WholeSeconds, Field(ge=0, le=65535)] = 0
    """Seconds that cap the keep alive a client asks for; 0 leaves it to the client."""
    max_session_expiry: Annotated[WholeSeconds, Field(ge=0, le=0xFFFFFFFF)] = 0xFFFFFFFF
    """Seconds that a session is kept after its connection ended; 4294967295 is for ever, also for 3.1.1."""
    topic_alias_maximum: Annotated[int, Field(ge=0, le=65535)] = 16
    """Topic aliases that an MQTT 5 client may use towards us; 0 is none."""
    max_subscriptions: Annotated[int, Field(ge=1)] = 10_000
    """Subscriptions of one device; further ones are refused."""
    max_topic_levels: Annotated[int, Field(ge=1, le=65535)] = 128
    """Levels of a topic name or filter; deeper ones are refused."""
    retain_available: bool = True
    """Whether clients may retain messages."""
    shutdown_grace: Annotated[Duration, Field(ge=0)] = 5.0
    """Seconds that a shutdown waits for the last group, the last acknowledgements and the sockets."""
    share_expiry: Annotated[Duration, Field(ge=0)] = 604800.0
    """Seconds that a shared subscription group is kept after its last member's session ended, and gathers messages."""
    message_properties: Literal["asked", "always", "never"] = "asked"
    """Which MQTT 5 receivers get sequence, message id, sender and time as user properties: those that ask in CONNECT."""
    response_information: str = ""
    """What an MQTT 5 client that asks is told as response information; empty for nothing."""
    reason_strings: Literal["asked", "always", "never"] = "asked"
    """Which MQTT 5 clients get reasons in words: those that ask for problem information in CONNECT, or all but those that
    decline it."""
    server_reference: Annotated[str, Field(max_length=1024)] = ""
    """Where MQTT 5 clients are sent, also at shutdown: ``host:port`` of other servers, separated by spaces."""
    redirect: Literal["never", "temporarily", "permanently"] = "never"
    """Whether every CONNECT is refused, and MQTT 5 clients are told to use ``server_reference`` for now, or from now on."""
    idempotency_window: Annotated[Duration, Field(ge=0)] = 86400.0
    """Seconds within which a publish that repeats its ``message-id`` is stored only once."""
    storage_timeout: Annotated[Duration, Field(ge=0)] = 30.0
    """Seconds after which an MQTT 5 publisher is told that storage is unavailable; 0 is never. 3.1.1 publishers wait."""

    @model_validator(mode="after")
    def _redirection_needs_a_target(self) -> Mqtt:
        if self.redirect != "never" and not self.server_reference:
            raise ValueError("redirect needs server_reference, the servers that clients use")
        return self

    @property
    def elsewhere(self) -> ReasonCode:
        """The code that sends clients to another server."""
        return ReasonCode.SERVER_MOVED if self.redirect == "permanently" else ReasonCode.USE_ANOTHER_SERVER


class Limits(Section):
    """What bounds memory, and what one address, user or client may take of the broker."""

    max_connections: Annotated[int, Field(ge=0)] = 0
    """Connections of all listeners together; more are closed at once. 0 is no limit."""
    connections_per_address: Annotated[int, Field(ge=0)] = 0
    """Connections of one address (of IPv6 a /64); more are refused. 0 is no limit."""
    connections_per_user: Annotated[int, Field(ge=0)] = 0
    """Connections of one user who was verified; more are refused. 0 is no limit."""
    connect_rate: Annotated[float, Field(ge=0)] = 0.0
    """CONNECTs a second from one address; more wait up to 2 s and are then refused. 0 is no limit."""
    connect_burst: Annotated[int, Field(ge=1)] = 1000
    """CONNECTs from one address that may come at once."""
    connect_pace: Annotated[float, Field(ge=0)] = 500.0
    """CONNECTs a second of all addresses together while messages come or go; more wait for their turn. 0 is no limit."""
    failed_logins: Annotated[int, Field(ge=0)] = 100
    """Failed logins from one address within a minute; the answers come later and later, then nobody new is let in from there.
    0 is no limit."""
    failed_logins_pause: Annotated[Duration, Field(gt=0)] = 60.0
    """Seconds for which nobody new is then let in from that address."""
    publish_rate: Annotated[float, Field(ge=0)] = 0.0
    """Messages a second that one client may publish. 0 is no limit."""
    publish_bytes: Annotated[Size, Field(ge=0)] = 0
    """Bytes of payload a second that one client may publish. 0 is no limit."""
    publish_burst: Annotated[Duration, Field(ge=0.5)] = 5.0
    """For so many seconds a client may save what it did not publish, and then publish it at once."""
    publish_over: Literal["slow", "disconnect"] = "slow"
    """What becomes of a client that publishes more: its socket is read more slowly, or it is disconnected."""

    pending_bytes: Annotated[Size, Field(ge=1 << 16)] = 16 << 20
    """Bytes of publishes gathered and not committed; above it no socket is read."""
    connection_pending: Annotated[int, Field(ge=1)] = 1000
    """Uncommitted messages of one connection; above it that socket is not read."""
    connection_share: Annotated[int, Field(ge=1)] = 128
    """The same while others publish too, so that none of them waits for one that publishes very much: four times as many as any
    other has, at most this, at least a quarter of it."""
    page_entries: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Inbox entries read from storage at once for a device that lags."""
    page_bytes: Annotated[Size, Field(ge=1024)] = 1 << 20
    """Bytes of payload read from storage at once for a device that lags."""
    write_high_water: Annotated[Size, Field(ge=1024, le=1 << 30)] = 64 << 10
    """Bytes waiting in a socket's write buffer; above it nothing more is written to it."""
    match_cache: Annotated[int, Field(ge=0)] = 100_000
    """Weight of the cache of topic matches: one per topic, and one per subscriber of it."""
    recent_entries: Annotated[int, Field(ge=1)] = 512
    """Entries that wait in memory for one device; with more it reads from storage."""
    recent_bytes: Annotated[Size, Field(ge=0)] = 64 << 20
    """Bytes of payload that wait in memory for all devices together."""
    retained_cache: Annotated[Size, Field(ge=0)] = 128 << 20
    """Bytes of retained messages kept in memory; where all of them take more, a SUBSCRIBE reads them from storage."""


class Hooks(Section):
    """How long plugins may take."""

    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """Seconds that a plugin may take before an acknowledgement; longer counts as a failure."""
    after_queue: Annotated[int, Field(ge=1)] = 64
    """Committed groups that may wait for a slow plugin after the acknowledgement; more are skipped for it."""
    acl_cache_seconds: Annotated[Duration, Field(ge=0)] = 60.0
    """Seconds that a connection's answers from topic plugins are kept; 0 asks them each time."""
    login_cache_seconds: Annotated[Duration, Field(ge=0)] = 900.0
    """Seconds after its last use that a right password of a password file is remembered, as a keyed hash in memory; 0 hashes it
    at each login."""


class Log(Section):
    """The log, which goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important messages that are written."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""


def _plugin_mapping(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of plugins to their settings")
    return {name: {} if options is None else options for name, options in value.items() if options is not False}


PluginMap = Annotated[dict[str, dict[str, Any]], BeforeValidator(_plugin_mapping)]


def default_listeners() -> list[Listener]:
    """MQTT and MQTT over WebSocket for this machine only."""
    return [
        Listener(name="mqtt", type="tcp", bind="127.0.0.1:1883"),
        Listener(name="websocket", type="ws", bind="127.0.0.1:8083"),
    ]


class Settings(Section):
    """Everything. ``Settings()`` is what runs without a file: loopback only, embedded store."""

    listeners: Annotated[list[Listener], Field(min_length=1)] = Field(default_factory=default_listeners)
    """Where clients connect."""
    origins: list[Annotated[str, AfterValidator(checked_origin)]] = []
    """The web pages that may connect, over WebSocket and HTTP alike, beside the broker's own: ``https://app.example``."""
    mqtt: Mqtt = Mqtt()
    """The protocol."""
    limits: Limits = Limits()
    """Memory, and what one address, user or client may take."""
    hooks: Hooks = Hooks()
    """Plugins' time limits."""
    log: Log = Log()
    """Logging."""
    plugins: PluginMap = Field(default_factory=default_plugins)
    """Plugins by alias or class path, each with its settings, called in this order; ``false`` leaves one out.

    ``persistence`` and ``sync`` are always among them, unless `false` leaves them to another maker's plugin."""

    _sources: Sources = PrivateAttr(default_factory=Sources)  # which is no part of what is equal

    _left_out: frozenset[str] = PrivateAttr(default_factory=frozenset)

    @model_validator(mode="wrap")
    @classmethod
    def _plugins_in_one_form(cls, data: Any, handler: ModelWrapValidatorHandler[Settings]) -> Settings:
        if not isinstance(data, dict):
            return handler(data)
        found = plugin_names.gathered(data)
        for path, problem in found.problems:
            raise ValueError(f"{dotted(path)}: {problem}")
        settings = handler(found.data)
        settings._left_out = frozenset(name for name, options in found.data["plugins"].items() if options is False)
        return settings

    @model_validator(mode="after")
    def _names_fit_together(self) -> Settings:
        named = plugin_names.name_problems(self.plugins, Settings.model_fields)
        for path, problem in (*_same_names([item.name for item in self.listeners]), *named):
            raise ValueError(f"{dotted(path)}: {problem}")
        return self

    def where(self, path: Place) -> str:
        """A setting's path as it was written, with its line or variable where it was: ``persistence.url (line 3)``."""
        return self._sources.where(path)

    @property
    def left_out(self) -> frozenset[str]:
        """The plugins that are left out by name (``false``): nobody forgot them."""
        return self._left_out

    def only(self, plugins: dict[str, dict[str, Any]]) -> Settings:
        """The settings with these plugins, and all others left out on purpose."""
        found = self.model_copy(update={"plugins": plugins})
        found._left_out = frozenset(plugin_names.ALIASES.keys() - plugins.keys())
        return found

    def plugin_classes(self) -> dict[str, dict[str, Any]]:
        """Class path → settings, in order: the ``plugins`` mapping that amqtt's plugin manager takes."""
        return {plugin_names.ALIASES.get(key, key): dict(options) for key, options in self.plugins.items()}

    @property
    def storage_url(self) -> str:
        """Where messages are stored; empty where another maker's plugin knows. May hold a password."""
        options = self.plugins.get("persistence")
        return "" if options is None else str(options.get("url", plugin_names.DEFAULT_URL))

    @property
    def keeps_nothing(self) -> bool:
        """Whether everything is lost when the process ends."""
        return self.storage_url.startswith("memory:")

    @property
    def loopback_only(self) -> bool:
        """Whether every listener can be reached from this machine alone."""
        return all(is_loopback(listener.host) for listener in self.listeners)


def _same_names(listeners: list[object]) -> Iterator[tuple[Place, str]]:
    """Listeners that share a name: (path, problem)."""
    for index, name in enumerate(listeners):
        if name is not None and name in listeners[:index]:
            yield ("listeners", index, "name"), f"{name!r} is the name of another listener; each needs its own"


# --- loading -------------------------------------------------------------------------------------------------------


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Settings from a YAML file (None: the defaults) with the environment laid over it.

    Raises `ConfigError` with everything that is wrong, not just the first thing.
    """
    sources = Sources()
    if path is not None:
        try:
            sources = config_sources.read_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError([f"cannot read {path}: {reason}"]) from error
    return build(sources, environ)


def build(sources: Sources, environ: Mapping[str, str]) -> Settings:
    """Settings from what a file said and the environment; raises `ConfigError`."""
    for key in [key for key, value in sources.data.items() if value is None and key in Settings.model_fields]:
        del sources.data[key]
    sources.data.setdefault("listeners", [item.model_dump(exclude_none=True) for item in default_listeners()])
    problems = _gather(sources)
    config_sources.overlay_environment(sources, environ, plugin_names.ALIASES, plugin_names.ALWAYS)
    problems = [*sources.problems, *problems, *_gather(sources), *_cross_problems(sources)]
    try:
        settings = Settings.model_validate(sources.data)
    except ValidationError as error:
        problems += [_problem(detail, sources) for detail in error.errors() if detail["loc"]]
        raise ConfigError(problems, sources) from None
    if problems:
        raise ConfigError(problems, sources)
    settings._sources = sources
    return settings


def _gather(sources: Sources) -> list[str]:
    """Bring the plugins into the one form; what is wrong on the way."""
    found = plugin_names.gathered(sources.data)
    sources.data = found.data
    sources.written |= found.written
    return [f"{sources.where(path)}: {problem}" for path, problem in found.problems]


def _cross_problems(sources: Sources) -> list[str]:
    return [f"{sources.where(path)}: {problem}" for path, problem in cross_problems(sources.data)]


def cross_problems(data: Mapping[str, Any]) -> list[tuple[Place, str]]:
    """Names that do not fit together: (path, problem)."""
    listeners, named = data.get("listeners"), data.get("plugins")
    names = [item.get("name") for item in listeners if isinstance(item, dict)] if isinstance(listeners, list) else []
    return [*_same_names(names), *(plugin_names.name_problems(named, Settings.model_fields) if isinstance(named, dict) else ())]


def _problem(detail: Any, sources: Sources) -> str:
    """One line for one of pydantic's findings: where, the value, what would be right."""
    path: tuple[str | int, ...] = detail["loc"]
    where = sources.where(path)
    if detail["type"] == "extra_forbidden":
        if home := _home(path):
            return f"{where}: unknown here, it belongs under {home}"
        return f"{where}: unknown{suggest(str(path[-1]), _known(path[:-1]))}"
    right = wanted(detail)
    if detail["type"] == "missing":
        return f"{where} {right}"
    if detail["type"] == "value_error" and isinstance(detail["input"], dict):
        return f"{where}: {right}"
    return f"{where}: {shown(path, detail['input'])} {right}"


def _home(path: tuple[str | int, ...]) -> str:
    """The section that has the setting of this name, which was written elsewhere; empty where none, or several, have it."""
    name = str(path[-1])
    if path[0] == "listeners":
        return "tls" if name in Tls.model_fields and path[-2] != "tls" else ""
    if len(path) == 1 and name in plugin_names.ALIASES:
        return "plugins"
    homes = [section for section in ("mqtt", "limits", "hooks", "log") if name in _known((section,))]
    return homes[0] if len(homes) == 1 else ""


def _known(path: tuple[str | int, ...]) -> list[str]:
    """The setting names that may stand at a path."""
    if not path:
        return [*Settings.model_fields, *plugin_names.ALWAYS]
    model: type[BaseModel] = Settings
    for part in path:
        if part == "listeners":
            model = Listener
        elif part == "tls":
            model = Tls
        elif isinstance(part, str):
            annotation = model.model_fields[part].annotation
            assert isinstance(annotation, type)
            assert issubclass(annotation, BaseModel)
            model = annotation
    return list(model.model_fields)
