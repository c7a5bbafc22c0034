"""What one node at a time does: the jobs, from whichever node they are asked for; and the next one goes on when it is dead."""

from __future__ import annotations

import pytest

from broker.hooks import JobBusy, NoSuchJob
from plugins.jobs import JobsPlugin
from tests.support.cluster import Node, cluster
from tests.support.until import until

JOBS = {"http": {"bind": "127.0.0.1:0", "operator_file": ""}, "jobs": {}}


def jobs_of(node: Node) -> JobsPlugin:
    plugin = node.server.plugin_host.job_plugin
    assert isinstance(plugin, JobsPlugin)
    return plugin


async def test_jobs_run_on_one_node_and_are_asked_for_on_any() -> None:
    async with cluster(2, plugins=JOBS) as made:
        one, other = made.nodes
        for node in made.nodes:
            assert (await jobs_of(node).anywhere("run", "sessions"))["name"] == "sessions"
            await jobs_of(one).ended("sessions")
            told = await jobs_of(node).anywhere("job", "sessions")
            assert told["last"]["outcome"] == "done"
        listed = [await jobs_of(node).anywhere("jobs") for node in made.nodes]
        assert listed[0] == listed[1]
        with pytest.raises(NoSuchJob, match="did you mean 'sessions'"):
            await jobs_of(other).anywhere("run", "session")
        with pytest.raises(JobBusy, match="not running"):
            await jobs_of(other).anywhere("cancel", "sessions")


async def test_the_next_node_runs_them_when_one_has_died() -> None:
    async with cluster(2, errors=True, lease=0.8, plugins=JOBS) as made:
        one, other = made.nodes
        await jobs_of(one).anywhere("run", "sessions")
        await jobs_of(one).ended("sessions")
        last = (await jobs_of(other).anywhere("job", "sessions"))["last"]
        await one.kill()
        await until(lambda: made.database.leases.get("work") == other.token)
        await until(lambda: jobs_of(other)._runs is not None)
        assert (await jobs_of(other).anywhere("job", "sessions"))["last"] == last
        await jobs_of(other).anywhere("run", "sessions")
        assert (await jobs_of(other).ended("sessions"))["last"]["outcome"] == "done"
