"""``tideline cluster``: the nodes that serve the same data, having one leave, and sharding their database (`broker.cli.shard`).

A broker that runs on this machine is asked (broker.cli.ask); it knows all of them.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from broker.cli.ask import ask
from broker.cli.inspect import print_block
from broker.cli.settings import settings_options
from broker.cli.shard import shard


@click.group(invoke_without_command=True, short_help="List the nodes of the cluster, have one leave, shard its database.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
@click.pass_context
def cluster(context: click.Context, config: Path | None, data: Path | None, as_json: bool) -> None:
    """List the nodes that serve the same data: state, clients, age of the last beat, position in the routes and lag."""
    if context.invoked_subcommand is not None:
        return
    nodes = ask(config, data, lambda broker: broker.get("/cluster"))["nodes"]
    if as_json:
        for node in nodes:
            click.echo(json.dumps(node, ensure_ascii=False))
        return
    titles = ["node", "name", "state", "sessions", "last beat", "routes", "lag", "since", ""]
    print_block([titles, *map(_row, nodes)])


@cluster.command()
@click.argument("node", default="me", metavar="[NODE]")
@settings_options
def leave(node: str, config: Path | None, data: Path | None) -> None:
    """Have NODE, a number or name, tell its clients to use another server, and end when they have gone.

    Without NODE it is the broker of this machine that is asked. It lets nobody in from then on, and exits with 0.
    """
    leaving = ask(config, data, lambda broker: broker.post(f"/cluster/{quote(node, safe='')}/leave"))
    click.echo(f"node {leaving['number']} ({leaving['name']}) sends its {leaving['sessions']} clients elsewhere, and ends")


cluster.add_command(shard)


def _row(node: dict[str, Any]) -> list[str]:
    since = datetime.fromtimestamp(node["started"] / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
    beat = f"{node['beat_age'] / 1000:.1f} s ago"
    numbers = [str(node[name]) for name in ("sessions", "routes", "lag")]
    return [
        str(node["number"]),
        node["name"],
        node["state"],
        numbers[0],
        beat,
        *numbers[1:],
        since,
        "this one" if node["me"] else "",
    ]
