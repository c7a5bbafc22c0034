"""On asyncio's own event loop: its order of events has two members of a group share four messages evenly."""

from __future__ import annotations

from tests.support.asyncio_loop import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
