"""A broker's HTTP API, for benchmarks that ask it as the operator."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 60.0


def plugin(home: Path) -> str:
    """The line of a configuration, below ``plugins``, by which a broker has it; ``home`` is the broker's directory."""
    return f'  http: {{bind: "127.0.0.1:0", operator_file: "{home}/operator.json"}}\n'


def address(home: Path) -> tuple[str, str]:
    """(URL, the operator's secret) of a broker, as soon as it has written them down, a moment after it listens."""
    deadline = time.monotonic() + PATIENCE
    while not (home / "operator.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    told = json.loads((home / "operator.json").read_text(encoding="utf-8"))
    return f"{told['url']}/v1", str(told["secret"])


class Api:
    """The operator's calls."""

    def __init__(self, home: Path) -> None:
        url, secret = address(home)
        self._http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=PATIENCE)

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """The answer. Raises `httpx.HTTPStatusError`."""
        answer = await self._http.request(method, path, params=params, **({} if body is None else {"json": body}))
        answer.raise_for_status()
        return answer.json() if answer.content else None
