"""What must be alike on all nodes: a node that differs is refused at its start."""

from __future__ import annotations

import pytest

from broker.cluster import shared_settings
from storage.errors import StorageUnusable
from tests.support.broker import settings
from tests.support.cluster import cluster

MONTH, WEEK = ({"retention": {"rules": [{"filter": "#", "max_age": age}]}} for age in ("30d", "7d"))


async def test_a_node_with_another_retention_is_refused_with_both_values() -> None:
    async with cluster(1, plugins={"jobs": MONTH}, errors=True) as nodes:
        with pytest.raises(StorageUnusable, match=r"^jobs\.retention is .*7d.* here and .*30d.* on node 0"):
            await nodes.start(plugins={"jobs": WEEK})
        await nodes.start(plugins={"jobs": MONTH})


def test_the_same_settings_are_the_same_however_they_are_written() -> None:
    one = settings(plugins={"jobs": {"retention": {"rules": [], "at": "03:00"}}, "sync": {}})
    other = settings(plugins={"sync": None, "jobs": {"retention": {"at": "03:00", "rules": []}}})
    assert shared_settings(one) == shared_settings(other)


def test_what_is_kept_where_devices_begin_and_what_is_removed_must_be_alike() -> None:
    assert set(shared_settings(settings())) == {"message ids", "persistence.policies", "sync.start", "jobs.retention"}
