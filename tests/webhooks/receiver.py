"""A real HTTP service that webhooks are told to: it checks each signature, and answers as a test says."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from typing import Any

from tests.support.until import until

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """``events`` are those that were taken, ``answers`` the statuses of the next requests; after these all are taken."""

    def __init__(self, secret: str = SECRET) -> None:
        self._key = base64.b64decode(secret.removeprefix("whsec_"))
        self.requests: list[tuple[dict[str, str], bytes]] = []
        """Headers and body of each request whose signature was right."""
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        """Of every request, also of those that were not taken."""
        self.answers: list[int] = []
        self.down = False
        """Every request is answered with 503."""
        self._server: asyncio.Server
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.url = ""

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open.values():
            writer.close()
        await asyncio.gather(*self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        task.add_done_callback(self._open.pop)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.splitlines()[1:])}
                body = await reader.readexactly(int(headers["content-length"]))
                status = self.take(headers, body)
                more = "Location: http://127.0.0.1:1/\r\n" if status == 302 else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{more}Content-Length: 2\r\n\r\nok".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def take(self, headers: dict[str, str], body: bytes) -> int:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        right = "v1," + base64.b64encode(hmac.digest(self._key, signed, "sha256")).decode()
        self.ids.append(headers["webhook-id"])
        if right not in headers["webhook-signature"].split():
            return 401
        self.requests.append((headers, body))
        status = 503 if self.down else self.answers.pop(0) if self.answers else 200
        if status == 200:
            told = json.loads(body)
            self.events += told["data"] if told["type"] == "batch" else [told]
        return status

    def payloads(self) -> list[str]:
        """Of the messages that were told, each event once, in the order in which it first came."""
        once = {event["id"]: event for event in self.events}
        return [event["data"]["message"]["payload"] for event in once.values() if "message" in event["data"]]

    async def told(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many events."""
        await until(lambda: len({event["id"] for event in self.events}) >= count, lambda: f"{count} events: {self.events}")
        return self.events
