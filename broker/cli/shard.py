"""``tideline cluster shard``: spreading the database of many nodes over the shards of a MongoDB cluster.

No broker is asked: it is a matter of the database, and of who may administer that.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from broker.cli.settings import CANNOT_START, Failure, config_option, read_settings
from storage.errors import StorageError, StorageUnavailable, StorageUnusable
from storage.factory import open_sharding
from storage.sharding import AdminCommand, Sharding

_REFUSED = 1


@click.command(short_help="Print, or run, what shards the database.")
@click.option("-u", "--url", help="The database, such as mongodb://mongos-1,mongos-2/tideline, instead of the configured one.")
@click.option("--apply", is_flag=True, help="Run the commands. The url is a mongos', and its user may administer the cluster.")
@config_option
def shard(url: str | None, apply: bool, config: Path | None) -> None:
    """Print the commands that spread the database over the shards of a MongoDB cluster, for mongosh.

    It may be run beside the nodes, and again: what is sharded stays as it is.
    """
    if url is None:
        url = read_settings(config).storage_url
        if not url:
            raise Failure(["the configuration leaves storage to another plugin; give --url"], 2)
    try:
        sharding = open_sharding(url)
    except StorageUnusable as error:
        raise Failure([str(error)], 2) from None
    if not apply:
        click.echo("// Through a mongos, once a node of this version was started through one: it makes the indexes.")
        for command in sharding.commands():
            click.echo(f"db.getSiblingDB({json.dumps(command.database)}).runCommand({json.dumps(command.body)})")
        return
    try:
        asyncio.run(_apply(sharding))
    except StorageError as error:
        code = CANNOT_START if isinstance(error, StorageUnavailable) else _REFUSED
        raise Failure([" ".join(str(error).split())], code) from None


async def _apply(sharding: Sharding) -> None:
    async for command in sharding.apply():
        click.echo(_done(command))


def _done(command: AdminCommand) -> str:
    body = command.body
    if "shardCollection" in body:
        return f"{body['shardCollection']} is sharded by {json.dumps(body['key'])}"
    if "createIndexes" in body:
        return f"{command.database}.{body['createIndexes']} has the index {body['indexes'][0]['name']}"
    return f"{body['enableSharding']} may be sharded"
