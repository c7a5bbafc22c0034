"""A broker that tells who is online, in each kind of storage."""

from __future__ import annotations

from tests.support.storages import url

__all__ = ["url"]
