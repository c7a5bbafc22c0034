"""``tideline inspect``: what is stored, read-only, also beside a running broker.

Over 300 lines: one command, with a few lines for each of its subcommands.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from broker.cli.ask import USAGE
from broker.cli.inspect_message import device_rows
from broker.cli.logs import printable
from broker.cli.place import address, place_options
from broker.cli.settings import CANNOT_START, Failure
from broker.config import without_password
from broker.sessions import is_channel, is_group, is_shared, member_device
from storage.errors import StorageError
from storage.factory import open_url
from storage.interface import Storage
from storage.records import NEVER, Device, InflightState, Message

Row = dict[str, Any]
Rows = AsyncIterator[Row]
F = TypeVar("F", bound=Callable[..., Any])

_PAGE = 256
_SHOWN = 60  # characters of a payload in a table
_LISTED = 8  # subscriptions of a device in a table


def _source_options(command: F) -> F:
    as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
    return place_options(as_json(command))


@click.group()
@place_options
def inspect(**_: object) -> None:
    """Look into a data directory or database, read-only."""


@inspect.command(short_help="List the conversations.")
@click.option("--prefix", default="", help="Only topics that begin with it.")
@_source_options
def conversations(prefix: str, **source: Any) -> None:
    """List the conversations: topic, first kept and last sequence."""

    async def rows(storage: Storage) -> Rows:
        async for topic, first, last in storage.conversations(prefix):
            yield {"topic": topic, "first": first, "last": last, "kept": last - first + 1}

    _show(rows, f"no conversation begins with {prefix!r}" if prefix else "no conversations", **source)


@inspect.command(short_help="List the inboxes.")
@_source_options
def inboxes(**source: Any) -> None:
    """List the inboxes: user key, first kept and last sequence."""

    async def rows(storage: Storage) -> Rows:
        async for user, first, last in storage.inboxes():
            yield {"user": user, "first": first, "last": last, "kept": last - first + 1}

    _show(rows, "no inboxes", **source)


@inspect.command(short_help="List the devices.")
@click.option("--user", help="Only the devices of this user.")
@_source_options
def devices(user: str | None, **source: Any) -> None:
    """List the devices: offset, lag behind the inbox, what is in flight, subscriptions.

    A device that reads the channel of a large group has a line for it, too, under the channel's key.

    A subscription is shown as filter:QoS>the inbox sequence that it begins after.
    """

    async def rows(storage: Storage) -> Rows:
        async for device in storage.devices():
            channel = is_channel(device.key.user)
            whose = member_device(device.key) if channel else device.key
            if user is None or user_key(user) in (device.key.user, whose.user):
                row = _device_row(device, await storage.inbox_head(device.key.user))
                if not source["as_json"] and is_group(device.key.user):
                    row["device"] = "(shared group)"
                if channel:
                    row["device"] = f"{whose.user} {whose.client_id}"
                yield row

    _show(rows, "no devices" if user is None else f"no devices of {_named(user)}", **source)


@inspect.command(short_help="List the messages of a conversation.")
@click.argument("topic")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only sequences above it.")
@click.option("--before", type=click.IntRange(min=0), default=0, help="Only sequences below it.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--newest", is_flag=True, help="The newest first.")
@_source_options
def messages(topic: str, after: int, before: int, limit: int, newest: bool, **source: Any) -> None:
    """List the messages of a conversation."""

    async def rows(storage: Storage) -> Rows:
        low, high, left = after, before, limit
        while left > 0:
            page = await storage.read_conversation(topic, after=low, before=high, limit=min(left, _PAGE), newest_first=newest)
            for message in page:
                yield _message_row(message)
            if not page:
                return
            low, high = (low, page[-1].seq) if newest else (page[-1].seq, high)
            left -= len(page)

    bounded = " in these bounds" if after or before else ""
    _show(rows, f"no messages of the conversation {topic!r}{bounded}", **source)


@inspect.command(short_help="List the inbox of a user.")
@click.argument("user")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only inbox sequences above it.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@_source_options
def inbox(user: str, after: int, limit: int, **source: Any) -> None:
    """List the inbox of a USER: a user name, or a key such as u/alice, c/client-id, s/group/filter, r/filter."""

    async def rows(storage: Storage) -> Rows:
        position, left = after, limit
        while left > 0:
            page = await storage.read_inbox(user_key(user), position, min(left, _PAGE))
            for entry in page:
                removed = {"topic": "(removed)"} if entry.message is None else _message_row(entry.message)
                yield {"inbox": entry.seq, **({"target": entry.target} if entry.target else {}), **removed}
            if not page:
                return
            position = page[-1].seq
            left -= len(page)

    _show(rows, f"nothing in the inbox of {_named(user)}" + (f" after {after}" if after else ""), **source)


@inspect.command(short_help="Tell who has a message, and how far each device is.")
@click.argument("id")
@_source_options
def message(id: str, **source: Any) -> None:
    """Tell who has the message with this ID, and how far each device is: not_due, stored, delivered or acknowledged.

    Times are told as after>until, as far as the plugin receipts has kept them.
    """

    async def rows(storage: Storage) -> Rows:
        found = await storage.read_message(_message_id(id))
        if found is None:
            place = without_password(address(source["config"], source["data"], source["url"]))
            raise Failure([f"there is no message {id}, or none any more, in {place}"], 1)
        if not source["as_json"]:
            click.echo(f"{printable(found.topic)} {found.seq}, {_time(found.time)}, of {printable(found.user)}", err=True)
        async for row in device_rows(storage, found):
            for name in ("delivered", "acknowledged", "read_at"):
                row[name] = ">".join(_time(at) for at in row[name])
            yield row

    _show(rows, "nobody has it", **source)


def _message_id(text: str) -> int:
    try:
        if len(text) == 16:
            return int(text, 16)
    except ValueError:
        pass
    raise Failure([f"id {text!r}: must be 16 hexadecimal digits, as `inspect messages` tells it"], USAGE)


def user_key(user: str) -> str:
    """The key of an inbox from what a person typed: a key stays one, a bare name is a verified user's."""
    return user if user.startswith(("u/", "c/")) or is_shared(user) else f"u/{user}"


def _named(user: str) -> str:
    """The key that was looked for, and what else a bare name may have meant."""
    key = user_key(user)
    if key == user:
        return repr(key)
    return f"{key!r}: a bare name is a verified user's, u/<name>; an anonymous client's user is c/<client id>, here 'c/{user}'"


# --- rows ----------------------------------------------------------------------------------------------------------


def _device_row(device: Device, head: int) -> Row:
    return {
        "user": device.key.user,
        "device": device.key.client_id,
        "offset": device.offset,
        "head": head,
        "lag": head - device.offset,
        "inflight": [
            {"packet": item.packet_id, "seq": item.seq, "state": InflightState(item.state).name.lower()}
            for item in device.inflight
        ],
        "received": sorted(device.received),
        "expires": "never" if device.expiry == NEVER else _time(device.expires_at) or f"{device.expiry} s after it leaves",
        "subscriptions": [
            {"filter": item.filter, "qos": item.options & 3, "since": item.since} for item in device.subscriptions.values()
        ],
    }


def _message_row(message: Message) -> Row:
    return {
        "seq": message.seq,
        "topic": message.topic,
        "time": _time(message.time),
        "user": message.user,
        "device": message.device,
        "qos": message.qos,
        "id": f"{message.id:016x}",
        **payload_fields(message.payload),
    }


def payload_fields(payload: bytes) -> Row:
    """``payload`` where it is UTF-8 text, else ``payload_base64``."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}


def _time(milliseconds: int) -> str:
    """UTC with milliseconds; empty for 0."""
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- showing them --------------------------------------------------------------------------------------------------


def _show(
    rows: Callable[[Storage], Rows],
    nothing: str,
    *,
    config: Path | None,
    data: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Print the rows of a storage, as they come in JSON, aligned where people read them; where there are none, ``nothing``."""
    place = address(config, data, url)
    if place.startswith("memory:"):
        raise Failure(["memory:// keeps nothing that could be looked at without its broker"], CANNOT_START)

    async def work() -> None:
        storage = open_url(place, read_only=True)
        await storage.open()
        try:
            await _print(rows(storage), as_json, nothing)
        finally:
            await storage.close()

    _run(work)


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    try:
        asyncio.run(main())
    except StorageError as error:
        raise Failure([" ".join(str(error).split())], CANNOT_START) from None


async def _print(rows: Rows, as_json: bool, nothing: str) -> None:
    if as_json:
        async for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    block: list[list[str]] = []
    titles: list[str] = []
    async for row in rows:
        if list(row) != titles or len(block) >= _PAGE:
            print_block(block)
            block, titles = [list(row)], list(row)
        block.append([_cell(value) for value in row.values()])
    print_block(block)
    if not titles:
        click.echo(printable(nothing), err=True)


def _cell(value: object) -> str:
    """A value in a table: ``chat/#:1>5`` is a filter, its QoS and its since; ``3 (7-9)`` is how many are in flight."""
    if not isinstance(value, list):
        text = printable(str(value))
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    if value and isinstance(value[0], dict) and "state" in value[0]:
        seqs = [item["seq"] for item in value]
        return f"{len(seqs)} ({min(seqs)}-{max(seqs)})"
    items = [f"{item['filter']}:{item['qos']}>{item['since']}" if isinstance(item, dict) else str(item) for item in value]
    return printable(" ".join(items[:_LISTED]) + (f" +{len(items) - _LISTED}" if len(items) > _LISTED else "")) or "-"


def print_block(block: list[list[str]]) -> None:
    """Print lines of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*block, strict=True)]
    for line in block:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
