"""``tideline doctor``: what will hurt on this machine, before it does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import click

from broker.amqtt import refuse_unguarded
from broker.cli.ask import Gone, file_of, running_broker
from broker.cli.doctor_checks import CHECKS, Finding
from broker.cli.settings import WRONG_CONFIGURATION, Failure, examine, settings_options
from broker.config import Settings, plugin_class, without_password
from broker.errors import StartError
from storage.errors import NoDatabase, StorageError
from storage.factory import open_url, serving_process

_LEVELS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(short_help="Say what will hurt on this machine before it does.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, instead of text.")
def doctor(config: Path | None, data: Path | None, as_json: bool) -> None:
    """Look at this machine as the broker will meet it: limits of open files, memory, disk, the time that an fsync takes, the
    clock, permissions, certificates, storage, the running broker. Run it as the user who runs the broker.

    Exit codes: 0 nothing hurts, though there may be warnings; 1 something does; 2 wrong configuration.
    """
    settings, problems, warnings = examine(config, data)
    if settings is None:
        raise Failure(problems, WRONG_CONFIGURATION)
    findings = [Finding("warn", "configuration", warning) for warning in warnings]
    for finding in findings:
        _print(finding, as_json)
    for check in (*CHECKS, _broker, _storage):
        for finding in check(settings):
            findings.append(finding)
            _print(finding, as_json)
    failed, warned = (sum(finding.level == level for finding in findings) for level in ("fail", "warn"))
    if not as_json:
        click.echo(f"{failed} that hurt, {warned} that will")
    if failed:
        raise click.exceptions.Exit(1)


def _print(finding: Finding, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(finding._asdict()))
    else:
        click.echo(f"{click.style(f'{finding.level:<5}', fg=_LEVELS[finding.level])} {finding.subject}: {finding.text}")


def _broker(settings: Settings) -> Iterator[Finding]:
    """Whether a broker runs on this data, and is well."""
    try:
        broker = running_broker(settings)
        if broker is None:
            yield _unasked(settings)
            return
        broker.get("/health", timeout=10.0)
        yield Finding("ok", "broker", f"runs at {broker.url}, and is well")
    except Gone as error:
        yield Finding("fail", "broker", str(error))
    except Failure as error:
        yield Finding("fail", "broker", error.message)


def _unasked(settings: Settings) -> Finding:
    """What there is where no broker can be asked: one may run all the same, and has the lock then."""
    try:
        process = serving_process(settings.storage_url)
    except OSError as error:
        return Finding("warn", "broker", f"whether one runs cannot be seen: {error}")
    file = file_of(settings)
    if not process:
        return Finding("ok", "broker", "none runs here")
    if not file:
        return Finding("ok", "broker", f"process {process} serves the data, without an API that commands could ask")
    where = f"{file} is gone, or not its own; a restart writes it"
    return Finding("fail", "broker", f"process {process} serves the data, and commands cannot ask it: {where}")


def _storage(settings: Settings) -> Iterator[Finding]:
    """Whether the storage can be read."""
    name = without_password(settings.storage_url) or "where a plugin says"
    if settings.keeps_nothing or not settings.storage_url:
        yield Finding("warn", "storage", f"{name}: nothing survives a restart")
        return

    async def read() -> str:
        storage = open_url(settings.storage_url, read_only=True)
        try:
            await storage.open()
            kinds = {setting.kind for setting in await storage.settings("")}
            loaded = [plugin_class(path) for path in settings.plugin_classes()]
            await refuse_unguarded(storage, kinds, loaded, settings.left_out)
            return f"{name}: {await storage.device_count()} sessions, {await storage.retained_count()} retained messages"
        finally:
            await storage.close()

    try:
        yield Finding("ok", "storage", asyncio.run(read()))
    except NoDatabase:
        yield Finding("ok", "storage", f"{name}: made at the first start")
    except StartError as error:
        yield Finding("fail", "storage", str(error))
    except StorageError as error:
        yield Finding("fail", "storage", f"{name}: {' '.join(str(error).split())}")
