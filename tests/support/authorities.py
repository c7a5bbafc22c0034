"""The certificates of the world's authorities are read once.

httpx reads them all for each client that is made, also where it asks in plain HTTP, as most tests do: 60 ms, which is more than
starting and stopping a broker.
"""

from __future__ import annotations

from functools import cache

import httpx
from httpx._transports import default


def keep() -> None:
    """From now on, clients that are made alike share a context."""
    vars(default)["create_ssl_context"] = cache(httpx.create_ssl_context)
