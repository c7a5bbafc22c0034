"""A broker that keeps what is scheduled in each kind of storage."""

from __future__ import annotations

from tests.support.storages import url

__all__ = ["url"]
