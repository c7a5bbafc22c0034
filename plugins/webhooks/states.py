"""What the operator is told of each webhook."""

from __future__ import annotations

from pydantic import BaseModel


class HookState(BaseModel):
    """Counts are since the node that runs the hooks began to. ``error`` is why the last attempt failed; null if it did not."""

    name: str
    events: list[str]
    delivered: int
    requests: int
    failures: int
    dead: int
    error: str | None


class HookList(BaseModel):
    hooks: list[HookState]
