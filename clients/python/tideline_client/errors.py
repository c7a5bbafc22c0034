"""What a client may raise."""

from __future__ import annotations


class RequestFailed(Exception):
    """The broker said no. ``status`` and ``name`` are those of its HTTP API: 404 and ``not-found``, say."""

    def __init__(self, status: int, name: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name


class NoAnswer(Exception):
    """The client is not connected, or the broker did not answer in time. What was asked may still happen."""


class StoreInUse(Exception):
    """Another client, of this process or another one, has the file of the local copy open. Nothing in it was changed."""
