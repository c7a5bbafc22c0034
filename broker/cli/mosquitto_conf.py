"""A mosquitto.conf made a configuration of ours: the lines are read in order, each by its option (`mosquitto_options`). No I/O.

What a line said that has no place here is noted with the line. What Tideline does anyway, or what means nothing here, is not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.config import Settings, is_loopback

ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
_AT_THE_TOP = ("persistence", "sync")
_LOG = ("error", "warning", "info", "debug")


class Line(NamedTuple):
    """An option and its value, and where it stands."""

    place: str
    option: str
    value: str

    @property
    def text(self) -> str:
        """The line as it was written, without a secret."""
        secret = self.option.endswith(("password", "_psk"))
        return f"{self.option} {'***' if secret else self.value}".rstrip()


class Note(NamedTuple):
    """What was not carried over, and why."""

    place: str
    line: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.line}: {self.why}" if self.line else f"{self.place}: {self.why}"


@dataclass
class ListenerLines:
    """What was said of a listener."""

    port: int = 1883
    host: str = ""
    place: str = ""
    """Of its first line; empty while nothing was said, which the default listener needs not to be there."""
    ipv6: bool = False
    type: str = "tcp"
    options: dict[str, Any] = field(default_factory=dict)
    tls: dict[str, Any] = field(default_factory=dict)
    cafile: str = ""
    require_certificate: bool = False
    identity: str = ""

    @property
    def unix(self) -> bool:
        """Whether it is a Unix socket."""
        return self.host.startswith("unix:")

    def written(self, name: str) -> dict[str, Any]:
        """As config.yaml has it."""
        host = self.host or ("::" if self.ipv6 else "0.0.0.0")
        bind = host if self.unix else f"{f'[{host}]' if ':' in host else host}:{self.port}"
        found: dict[str, Any] = {"name": name, "type": self.type, "bind": bind, **self.options}
        if self.tls.get("certfile"):
            found["tls"] = dict(self.tls)
            if self.require_certificate:
                found["tls"] |= {"cafile": self.cafile, "require_client_certificate": True}
                if self.identity:
                    found["identity"] = self.identity
        return found


class Conversion:
    """What was gathered so far; options change it."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.sections: dict[str, dict[str, Any]] = {"mqtt": {}}
        self.default = ListenerLines()
        self.listeners: list[ListenerLines] = []
        self.listener = self.default
        self.bridges: list[tuple[Line, dict[str, Any]]] = []
        """Each with its first line."""
        self.bridge: dict[str, Any] | None = None
        """The one whose options come now."""
        self.security: dict[str, str] = {}
        """password_file, acl_file and allow_anonymous: one of each, for all listeners."""
        self.location = "data"
        self.kept = False
        self.sys: int | None = None
        self.log_types: set[str] = set()

    def note(self, line: Line, why: str) -> None:
        """Say of a line that it was not carried over."""
        self.notes.append(Note(line.place, line.text, why))

    def settings(self) -> dict[str, Any]:
        """The configuration, when all lines were read."""
        found: dict[str, Any] = {"listeners": self._listeners(), **{name: made for name, made in self.sections.items() if made}}
        if self.log_types:
            found["log"] = {"level": max(self.log_types, key=_LOG.index)}
        found["persistence"] = {"url": f"sqlite:///{self.location}/tideline.db"}
        found["plugins"] = self._plugins()
        if "max_packet_size" not in self.sections["mqtt"]:
            why = "larger packets than 1 MiB end their connection here, and Mosquitto takes any: mqtt.max_packet_size"
            self.notes.append(Note("max_packet_size", "", why))
        if not self.kept:
            why = "it kept nothing on disk; Tideline stores every message. To keep nothing: persistence: memory://"
            self.notes.append(Note("persistence", "", why))
        return found

    def _listeners(self) -> list[dict[str, Any]]:
        wanted = [*([self.default] if self.default.place else []), *self.listeners]
        if not wanted:
            return [ListenerLines(host="127.0.0.1").written("mqtt")]
        found: list[dict[str, Any]] = []
        for listener in wanted:
            name = {"tcp": "mqtt", "ws": "websocket"}[listener.type] + ("s" if listener.tls.get("certfile") else "")
            found.append(
                listener.written(
                    f"{name}-{'unix' if listener.unix else listener.port}" + (f"-{len(found) + 1}" if len(wanted) > 1 else "")
                )
            )
            if self._anonymous and not is_loopback(listener.host or "0.0.0.0") and not listener.unix:
                found[-1]["anonymous"] = True
            self._look_at(listener)
        return found

    @property
    def _anonymous(self) -> bool:
        """Whether clients without a user come in."""
        alone = not self.default.place and not self.listeners
        return self.security.get("allow_anonymous", "true" if alone else "false") == "true"

    def _look_at(self, listener: ListenerLines) -> None:
        if listener.tls and not listener.tls.get("certfile"):
            self.notes.append(Note(listener.place, "", "certificates without certfile and keyfile: the listener is not TLS"))
        if listener.cafile and not listener.require_certificate:
            why = "is used for client certificates only (require_certificate true); certfile must have the server's own chain"
            self.notes.append(Note(listener.place, f"cafile {listener.cafile}", why))
        if listener.identity and not listener.require_certificate:
            self.notes.append(Note(listener.place, "", "names from certificates need require_certificate true"))
        if listener.type == "ws":
            self.notes.append(
                Note(listener.place, "", "browsers must use the path /mqtt here, Mosquitto takes any; see also origins")
            )
        if not listener.host and not listener.ipv6:
            self.notes.append(Note(listener.place, "", "IPv4 only; for IPv6 add a listener that binds [::] and this port"))

    def _plugins(self) -> dict[str, Any]:
        plugins: dict[str, Any] = {key: dict(options) for key, options in Settings().plugins.items() if key not in _AT_THE_TOP}
        plugins["http"]["operator_file"] = f"{self.location}/operator.json"
        plugins["search"]["path"] = f"{self.location}/search.db"
        if self.sys is not None:
            plugins["sys"] = {"interval": self.sys} if self.sys else False
        if "acl_file" in self.security:
            plugins["acl"] = {"acl_file": self.security["acl_file"]}
        anonymous = self._anonymous
        plugins[ANONYMOUS] = {"allow_anonymous": True} if anonymous else False
        if "password_file" in self.security:
            plugins["passwords"] = {"file": self.security["password_file"], **({"anonymous": True} if anonymous else {})}
        if bridges := [*self._whole_bridges()]:
            plugins["bridge"] = {"bridges": bridges}
        self._look_at_users(anonymous)
        return plugins

    def _whole_bridges(self) -> Iterator[dict[str, Any]]:
        for line, bridge in self.bridges:
            if not bridge["address"] or not (bridge["send"] or bridge["receive"]):
                self.note(line, "a bridge needs an address, and topics")
            else:
                yield {name: value for name, value in bridge.items() if value != []}

    def _look_at_users(self, anonymous: bool) -> None:
        known = "password_file" in self.security or any(one.identity for one in (self.default, *self.listeners))
        if not anonymous and not known:
            why = "nobody can log in: there is no password_file, and allow_anonymous is not true"
            self.notes.append(Note("allow_anonymous", "", why))
        if anonymous and not known and "acl_file" in self.security:
            why = "without passwords no user name counts here: only the lines above the first user, and %c, allow anything"
            self.notes.append(Note("acl_file", "", why))


def lines_of(text: str, name: str) -> Iterable[Line]:
    """The options of a file, as Mosquitto reads them."""
    for number, line in enumerate(text.splitlines(), 1):
        option, _, value = line.strip().partition(" ")
        if option and not line.startswith("#"):
            yield Line(f"{name}, line {number}", option, value.strip())


def address(text: str) -> str:
    """What is wrong with an address to listen on; empty for nothing."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "" if text.replace("-", "").replace(".", "").isalnum() else "no address or host name"
    return ""
