"""What nodes say to each other, where something of our own goes wrong with it."""

from __future__ import annotations

import pytest

from storage.cluster import Parcel
from tests.support.cluster import cluster
from tests.support.until import until


async def test_a_note_that_cannot_be_sent_costs_none_that_follows(caplog: pytest.LogCaptureFixture) -> None:
    """! A node that said nothing any more would be taken for silent, and lose all of its devices."""
    async with cluster(2, errors=True) as made:
        one, other = (node.server._cluster for node in made.nodes)
        assert one is not None
        assert other is not None
        one.mailbox.note(made.nodes[1].token, "no such kind", {"value": (letter for letter in "no plain value")})
        await until(lambda: "notes for nodes 2 are lost" in caplog.text)
        asked = {"filters after": ""}
        assert await one.mailbox.ask(made.nodes[1].token, "wanted", asked, 30.0) == {"filters": []}
        assert await other.mailbox.ask(made.nodes[0].token, "wanted", asked, 30.0) == {"filters": []}


async def test_what_a_node_cannot_take_costs_nothing_that_follows() -> None:
    async with cluster(2, errors=True) as made:
        one = made.nodes[0].server._cluster
        assert one is not None
        part = made.nodes[1].storage._part
        assert part is not None
        real = part.receive

        async def broken(wait: float) -> list[Parcel]:
            part.receive = real  # type: ignore[method-assign]
            raise ZeroDivisionError("in our own code")

        part.receive = broken  # type: ignore[method-assign]
        for _ in range(2):  # the first one comes with a call that was under way
            assert await one.mailbox.ask(made.nodes[1].token, "wanted", {"filters after": ""}, 30.0) == {"filters": []}
