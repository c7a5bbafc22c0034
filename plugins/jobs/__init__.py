"""Jobs: what has to be done now and then, by one process at a time.

Kept true: a job runs once at a time on all nodes, gives way to publishers, and removes nothing that a device still waits for
unless a rule says so.

``retention``, ``inboxes``, ``sessions`` and ``index`` are the jobs; ``waiting`` says what devices still wait for. ``work`` is a
run's pace, progress and end; ``runs`` begins and ends them; ``ledger`` remembers them in storage; ``schedule`` and ``plugin``
put them on APScheduler; ``routes`` shows them over HTTP.
"""

from plugins.jobs.config import Scheduled
from plugins.jobs.plugin import JobsPlugin, add_job
from plugins.jobs.work import Job, Work

__all__ = ["Job", "JobsPlugin", "Scheduled", "Work", "add_job"]
