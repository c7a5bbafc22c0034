"""Fills a database with what the plugin `conversations` keeps: `python -m bench.prefill_conversations URL --members N`.

What it leaves is what a broker would have left, which would take an hour to do the same by its API.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence

from broker.sessions import channel_inbox, member_key
from plugins.conversations.model import CHANNEL, GROUP, MEMBER, OWNER, READ_ONLY, START, About, Membership
from plugins.conversations.store import put_about, put_member
from storage.factory import open_url
from storage.records import (
    NEVER,
    Append,
    CloseSession,
    DeviceKey,
    Message,
    OpenSession,
    Operation,
    Subscribe,
    Subscription,
)

_GROUP = 2_000
_SAID = 5
"""Messages of each conversation."""


def _channel(members: int, topic: str, filter_: str, now: int) -> Iterator[Sequence[Operation]]:
    """A channel whose members have a device each, which follows it and is away."""
    yield [put_about(About(topic, CHANNEL, "everybody", START, now, "c/owner", ("c/owner",)))]
    yield put_member(topic, "c/owner", Membership(OWNER, 0, now, "c/owner"))
    inbox = channel_inbox(filter_)
    for number in range(members - 1):
        device = DeviceKey(f"c/member-{number:07}", f"member-{number:07}")
        reader = member_key(inbox, device)
        yield [
            *put_member(topic, device.user, Membership(READ_ONLY, 0, now, "c/owner")),
            OpenSession(reader, 1, clean=False, expiry=NEVER),
            Subscribe(reader, 1, [Subscription(topic, 0)]),
            CloseSession(reader, 1, delete=False),
            OpenSession(device, 1, clean=False, expiry=NEVER),
            Subscribe(device, 1, [Subscription(topic, 1)]),
            CloseSession(device, 1, delete=False),
        ]


def _groups(count: int, user: str, now: int) -> Iterator[Sequence[Operation]]:
    """Groups that a user is in with one other, who has said something in each."""
    other = "u/other"
    for number in range(count):
        topic = f"conv/group/{number:07}"
        yield [
            put_about(About(topic, GROUP, f"group {number}", START, now, other, (other,))),
            *put_member(topic, other, Membership(OWNER, 0, now, other)),
            *put_member(topic, user, Membership(MEMBER, 0, now, other)),
            *(
                Append(Message(id, topic, other, "phone", now + id, 1, b"x" * 128), recipients=(user,))
                for id in range(number * _SAID + 1, (number + 1) * _SAID + 1)
            ),
        ]


async def fill(url: str, parts: Iterable[Sequence[Operation]]) -> None:
    """Commit all, some thousands of operations at once."""
    storage = open_url(url)
    await storage.open()
    try:
        group: list[Operation] = []
        for operations in parts:
            group += operations
            if len(group) >= _GROUP:
                await storage.commit(group)
                group = []
        await storage.commit(group)
    finally:
        await storage.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.prefill_conversations", description="Fill a database for the benchmark."
    )
    parser.add_argument("url", help="storage URL, such as sqlite:///data/tideline.db")
    parser.add_argument("--members", type=int, help="of one channel")
    parser.add_argument("--topic", help="the channel's")
    parser.add_argument("--filter", help="the policy's that gives the channel read fan-out")
    parser.add_argument("--conversations", type=int, help="groups of one user")
    parser.add_argument("--user", help="the user's key")
    given = parser.parse_args()
    now = time.time_ns() // 1_000_000
    if given.members:
        asyncio.run(fill(given.url, _channel(given.members, given.topic, given.filter, now)))
    if given.conversations:
        asyncio.run(fill(given.url, _groups(given.conversations, given.user, now)))


if __name__ == "__main__":
    main()
