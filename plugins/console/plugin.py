"""The console as a plugin: its files beside the API, and where the page finds MQTT over WebSocket."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

from amqtt.plugins.base import BasePlugin
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from broker.amqtt import Services, TidelineContext
from plugins.console.websocket import checked, found, source
from plugins.http import HttpPlugin, Pages, add_pages
from plugins.http.rendering import reply

log = logging.getLogger(__name__)

PATH = "/console"


class ConsolePlugin(BasePlugin):
    """Serves the page at `/console/`, where the HTTP API is."""

    @dataclass
    class Config:
        """Settings under ``plugins: console:``."""

        websocket: str = ""
        """Where browsers reach MQTT over WebSocket, such as ``wss://mqtt.example/mqtt``; empty is a listener of this broker."""

        def __post_init__(self) -> None:
            if self.websocket:
                self.websocket = checked(self.websocket)

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        router = APIRouter()

        @router.get(f"{PATH}/mqtt.json")
        async def mqtt(request: Request) -> Response:
            return reply({"url": self._websocket(request) or None})

        add_pages(context, Pages(PATH, "plugins.console", "static", self._connects, router))

    def _websocket(self, request: Request) -> str:
        server = cast(Services, self.context.server)
        return self.config.websocket or found(request, server.settings.listeners, server.addresses)

    def _connects(self, request: Request) -> list[str]:
        url = self._websocket(request)
        return [source(url)] if url else []

    async def on_broker_post_start(self) -> None:
        """Say where it is."""
        if cast(Services, self.context.server).plugin(HttpPlugin) is None:
            log.warning("console: it is a page beside the HTTP API, and there is none; add http to the plugins")
