"""Which web pages may come here: the one rule for HTTP and for WebSocket, whose upgrade a browser lets any page send.

- A page that `origins` lists may.
- A page of our own may: its origin is a host and port that this broker was called by. The name has to be one that nobody else
  can give to this machine, for a page of ``evil.example`` may have that name lead here (DNS rebinding): an address, a loopback
  name, or any name where the browser has seen our certificate for it.
- Who sends no Origin is no browser.

Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

ANY = "*"
_FORM = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def checked_origin(value: str) -> str:
    """An origin as browsers write it; raises ValueError."""
    if value == ANY:
        return value
    if not _FORM.fullmatch(value):
        raise ValueError('must be an origin as browsers send it, such as https://app.example or http://localhost:3000, or "*"')
    scheme, name, port = _parts(value)
    return f"{scheme}://{name}" if port in (0, _PORTS.get(scheme)) else f"{scheme}://{name}:{port}"


class Origins:
    """The rule for one broker. ``listed`` are `checked_origin`s; a reload replaces them."""

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self.listed = frozenset(listed)
        self.ports: set[int] = set()
        """Where this broker serves WebSocket and HTTP: whoever listens adds its own."""

    def lists(self, origin: str) -> bool:
        """Whether pages of this origin were let in by name."""
        if ANY in self.listed:
            return True
        try:
            return checked_origin(origin) in self.listed
        except ValueError:  # "null"
            return False

    def takes(self, origin: str, host: str, *, secure: bool) -> bool:
        """Whether a page of ``origin`` may call what was called as ``host``, by TLS of ours where it is ``secure``."""
        return self.lists(origin) or self._own(origin, host, secure)

    def _own(self, origin: str, host: str, secure: bool) -> bool:
        if not _FORM.fullmatch(origin):
            return False
        try:
            _, name, port = _parts(origin)
            _, called, called_at = _parts(f"{'https' if secure else 'http'}://{host}")
        except ValueError:
            return False
        same = name == called or (_loopback(name) and _loopback(called))
        return same and (secure or _fixed(name)) and (port == called_at or port in self.ports)


def refusal(origin: str) -> str:
    """Why a page may not, and what would let it."""
    return f"pages of origin {origin[:80]!r} may not connect here; origins in config.yaml lists those that may"


def _parts(origin: str) -> tuple[str, str, int]:
    """(scheme, host in lower case, port or 0); raises ValueError."""
    scheme, _, authority = origin.lower().partition("://")
    name, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return scheme, authority, _PORTS.get(scheme, 0)
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"port {port!r} must be a number up to 65535")
    return scheme, name, int(port)


def _fixed(name: str) -> bool:
    return _loopback(name) or _address(name) is not None


def _loopback(name: str) -> bool:
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
