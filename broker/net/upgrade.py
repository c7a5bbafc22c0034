"""The request that opens a WebSocket, and its answer (RFC 6455, section 4.2): bytes in, bytes out. No I/O.

- A GET of HTTP/1.1, without a body; lines end with CR LF, and a header is not folded (RFC 9112).
- Subprotocol ``mqtt`` (``mqttv3.1`` for old clients), one of which the client must offer [MQTT-6.0.0-3, -4].
- No extension is agreed on. Compression, the only one in use, would cost each connection more memory than everything else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from broker.packets import shown

SUBPROTOCOLS: Final = ("mqtt", "mqttv3.1")
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of the standard, 1.3

_REQUEST: Final = re.compile(r"GET ([\x21-\x7e\x80-\xff]+) HTTP/1\.1")
_HEADER: Final = re.compile(r"([-!#$%&'*+.^_`|~0-9a-zA-Z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


class Refused(Exception):
    """No WebSocket for this request: why, and the HTTP status that says so."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class Request:
    """What a client asked for."""

    __slots__ = ("_headers", "path")

    def __init__(self, path: str, headers: dict[str, list[str]]) -> None:
        """``headers`` by name in lower case."""
        self.path = path
        self._headers = headers

    def all(self, name: str) -> list[str]:
        """Every value of a header, whose name is in lower case."""
        return self._headers.get(name, [])

    def one(self, name: str) -> str:
        """The value of a header that must be there once. Raises `Refused`."""
        values = self.all(name)
        if len(values) != 1:
            raise Refused(400, f"{'more than one' if values else 'no'} {name} header")
        return values[0]

    def listed(self, name: str) -> list[str]:
        """The elements of a header that is a list, in order."""
        return [part for value in self.all(name) for each in value.split(",") if (part := each.strip(" \t"))]


def read(head: bytes) -> Request:
    """A request's lines, without the empty one. Raises `Refused`."""
    lines = head.decode("latin-1").split("\r\n")
    asked = _REQUEST.fullmatch(lines[0])
    if asked is None:
        raise Refused(400, "not a GET of HTTP/1.1")
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise Refused(400, f"a broken header {shown(line.partition(':')[0])}")
        headers.setdefault(header[1].lower(), []).append(header[2].rstrip(" \t"))
    if "content-length" in headers or "transfer-encoding" in headers:
        raise Refused(400, "a request with a body")
    return Request(asked[1], headers)


def accepted(request: Request) -> bytes:
    """The answer that opens the WebSocket. Raises `Refused`."""
    if "upgrade" not in map(str.lower, request.listed("connection")):
        raise Refused(426, "no Connection: Upgrade header")
    if [protocol.lower() for protocol in request.listed("upgrade")] != ["websocket"]:
        raise Refused(426, "no Upgrade: websocket header")
    key = request.one("sec-websocket-key")
    if not _is_key(key):
        raise Refused(400, f"invalid sec-websocket-key {shown(key)}: must be 16 bytes in base64")
    if (version := request.one("sec-websocket-version")) != "13":
        raise Refused(400, f"sec-websocket-version {shown(version)}: must be 13")
    protocol = _subprotocol(request.listed("sec-websocket-protocol"))
    digest = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    ).encode()


def refusal(refused: Refused) -> bytes:
    """The answer that says why there is no WebSocket; the connection ends behind it."""
    body = f"{refused.why}\n".encode()
    more = "Upgrade: websocket\r\n" if refused.status == HTTPStatus.UPGRADE_REQUIRED else ""
    lines = (
        f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}\r\nDate: {formatdate(usegmt=True)}\r\n{more}"
        f"Connection: close\r\nContent-Length: {len(body)}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    )
    return lines.encode() + body


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def _subprotocol(offered: list[str]) -> str:
    for protocol in SUBPROTOCOLS:
        if protocol in offered:
            return protocol
    why = "invalid" if offered else "missing"
    raise Refused(400, f"{why} subprotocol; expected one of {', '.join(SUBPROTOCOLS)}")
