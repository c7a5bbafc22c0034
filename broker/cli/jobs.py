"""``tideline jobs``: what runs now and then, when it ran, and running it by hand.

The running broker is asked (broker.cli.ask). Where none runs, a job is run by this process, which then serves the data as a
broker would, with the same lock, and without listeners: a job never runs twice at a time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from broker.cli.ask import Gone, RunningBroker, running_broker
from broker.cli.inspect import print_block
from broker.cli.jobs_here import remembered, run_here
from broker.cli.settings import CANNOT_START, Failure, read_settings, settings_options

Answer = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

_LOOK = 0.3
"""Seconds between two looks at a run."""


@click.group(invoke_without_command=True)
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
@click.pass_context
def jobs(context: click.Context, config: Path | None, data: Path | None, as_json: bool) -> None:
    """List the jobs: last run, outcome, next run. They remove old messages, trim inboxes and the like; see docs/jobs.md."""
    if context.invoked_subcommand is not None:
        return
    settings = read_settings(config, data)
    broker = running_broker(settings)
    if broker is None:
        click.echo("no running broker was found; this is what is remembered", err=True)
        found = asyncio.run(remembered(settings))
    else:
        found = _asked(lambda: broker.get("/jobs"))["jobs"]
    if as_json:
        for job in found:
            click.echo(json.dumps(job, ensure_ascii=False))
    elif found:
        print_block([["job", "schedule", "last run", "outcome", "next run", "what it told"], *map(_row, found)])
    else:
        click.echo("nothing", err=True)


@jobs.command()
@click.argument("name")
@click.option("--no-wait", is_flag=True, help="Begin it in the running broker, and don't wait.")
@settings_options
def run(name: str, no_wait: bool, config: Path | None, data: Path | None) -> None:
    """Run the job NAME now, and show how far it is. ^C ends it at its next step, which harms nothing.

    The running broker does it; where none runs, this process. Exits with 1 where the job fails or is ended early.
    """
    settings = read_settings(config, data)
    broker = running_broker(settings)
    shown = _Shown()
    if broker is None:
        if no_wait:
            raise Failure(["--no-wait: no running broker was found that could go on with it"], CANNOT_START)
        last = run_here(settings, name, shown)
    else:
        _asked(lambda: broker.post(f"/jobs/{name}/run"))
        if no_wait:
            click.echo(f"{name}: begun")
            return
        last = _watch(broker, name, shown)
    shown.end()
    seconds = f" after {(last['ended'] - last['started']) / 1000:.1f} s" if last["ended"] else ""
    click.echo(f"{name}: {last['outcome']}{seconds}: {_detail(last)}")
    if last["outcome"] != "done":
        raise click.exceptions.Exit(1)


@jobs.command()
@click.argument("name")
@settings_options
def cancel(name: str, config: Path | None, data: Path | None) -> None:
    """End the run of the job NAME at its next step. What it did stays done; the next run goes on."""
    broker = running_broker(read_settings(config, data))
    if broker is None:
        raise Failure(["no running broker was found, so no job runs"], 1)
    _asked(lambda: broker.delete(f"/jobs/{name}/run"))
    click.echo(f"{name}: ends at its next step")


def _asked(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Gone as error:
        raise Failure([error.told], CANNOT_START) from None


def _watch(broker: RunningBroker, name: str, shown: _Shown) -> Answer:
    """Look at the run until it has ended; its outcome."""
    while True:
        try:
            job: Answer = _asked(lambda: broker.get(f"/jobs/{name}"))
            if job["running"] is None:
                return dict(job["last"])
            shown(job["running"])
            time.sleep(_LOOK)
        except KeyboardInterrupt:
            with suppress(Failure):  # it has ended meanwhile
                broker.delete(f"/jobs/{name}/run")


class _Shown:
    """The progress of a run: one line that changes on a terminal, else one for each thing that it is at."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._what = ""
        self._width = 0

    def __call__(self, running: Answer) -> None:
        what, done, total = running["what"], running["done"], running["total"]
        way = f" {done:,} of {total:,} ({done * 100 // total}%)" if total else f" {done:,}" if done else ""
        if self._terminal:
            line = f"{what}{way}"
            click.echo("\r" + line.ljust(self._width), nl=False, err=True)
            self._width = len(line)
        elif what and what != self._what:
            click.echo(f"{what}{way}", err=True)
        self._what = what

    def end(self) -> None:
        """Make room for what comes after it."""
        if self._width:
            click.echo(err=True)
            self._width = 0


def _row(job: Answer) -> list[str]:
    last, running = job["last"], job["running"]
    outcome = "running" if running else last["outcome"] if last else ""
    at = running["started"] if running else last["started"] if last else None
    return [job["name"], job["schedule"], _time(at), outcome, _time(job["next_run"]), _detail(running or last)]


def _detail(run: Answer | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in run["detail"].items()) if run else ""


def _time(milliseconds: int | None) -> str:
    """Local time."""
    if not milliseconds:
        return "never"
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
