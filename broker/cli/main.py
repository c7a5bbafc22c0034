"""The command line: ``tideline serve | check | reload | inspect | jobs | reindex | demo | passwd``.

Exit codes, the same everywhere: 0 done; 1 found what should not be (`check --strict`, `demo`), or what was asked for was
refused or failed; 2 the command line or the configuration is wrong; 3 the broker or the storage could not be started or
read; 4 the broker had to end by itself.
"""

from __future__ import annotations

import click

from broker.cli.check import check
from broker.cli.demo import demo
from broker.cli.inspect import inspect
from broker.cli.jobs import jobs
from broker.cli.passwd import passwd
from broker.cli.reindex import reindex
from broker.cli.reload import reload
from broker.cli.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tideline", message="tideline %(version)s")
def main() -> None:
    """An MQTT broker that stores first, then syncs."""


for command in (serve, check, reload, inspect, jobs, reindex, demo, passwd):
    main.add_command(command)
