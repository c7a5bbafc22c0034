"""The process behind `bench.peers.amqtt`: `python -m bench.peers.amqtt_server PORT`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvloop
from amqtt.broker import Broker


async def _serve(port: int) -> None:
    """Serve until SIGTERM."""
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 0}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker = Broker(settings)
    await broker.start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    uvloop.run(_serve(int(sys.argv[1])))
