"""Where a browser that called us reaches MQTT over WebSocket. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.requests import Request

from broker.config import Listener

_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_URL = re.compile(r"wss?://[^\s;,'\"/?#@]+(/[^\s;,'\"?#]*)?")


def checked(url: str) -> str:
    """A URL of the configuration. Raises ValueError."""
    if not _URL.fullmatch(url):
        raise ValueError(f"websocket {url!r} must be a WebSocket's URL, such as wss://mqtt.example/mqtt")
    return url


def found(request: Request, listeners: Iterable[Listener], addresses: Mapping[str, tuple[str, int]]) -> str:
    """The URL of a WebSocket listener, by the host name that the browser called; empty where there is none.

    A page that came by TLS may connect by TLS only, so such a listener goes before others there, and elsewhere behind them.
    """
    secure = request.url.scheme == "https"
    ways = [one for one in listeners if one.type == "ws" and not (one.socket_path or one.proxy_protocol)]
    if not ways or not _NAME.fullmatch(name := _hostname(request.headers.get("host", ""))):
        return ""
    best = min(ways, key=lambda one: (one.tls is not None) != secure)
    port = addresses[best.name][1]
    return f"{'ws' if best.tls is None else 'wss'}://{name}:{port}{best.path}"


def source(url: str) -> str:
    """What the page's policy (CSP) calls the server of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _hostname(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
