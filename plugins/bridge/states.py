"""What the operator is told of each bridge."""

from __future__ import annotations

from pydantic import BaseModel


class BridgeState(BaseModel):
    """Counts are since the node that runs the bridges began to. ``refused`` is what one side would not take, ``loops`` what was
    here before, ``dropped`` what came with QoS 0 and was too much; ``error`` is why it is not connected."""

    name: str
    connected: bool
    sent: int
    received: int
    refused: int
    loops: int
    dropped: int
    error: str | None


class BridgeList(BaseModel):
    bridges: list[BridgeState]
