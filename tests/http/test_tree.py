"""`/v1/topics` and `/v1/inbox`: the stored topics a level at a time, and what an inbox points to; nothing moves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from plugins.timelines.tree import _PASSED
from tests.http.conftest import Site
from tests.http.test_clients import pages

Sites = Callable[..., AbstractAsyncContextManager[Site]]


async def test_a_level_lists_what_is_right_below_it_however_much_is_further_down(tour: Site) -> None:
    http = tour.caller()
    names = ["home", "home-2", "home/", "home/a", "home/b/c", "home/b/d", "homf", "/x"]
    names += [f"home/many/{number:03}" for number in range(2 * _PASSED)]
    await http.post("/messages", json=[{"topic": topic, "payload": topic} for topic in names])
    top = (await http.get("/topics")).json()
    assert (top["levels"], [row["topic"] for row in top["topics"]], top["next"]) == (
        ["/", "home/"],
        ["home", "home-2", "homf"],
        None,
    )
    assert top["topics"][0] | {"last": 1} == top["topics"][0]
    assert top["topics"][0]["last_message"]["payload"] == "home"
    below = (await http.get("/topics", params={"prefix": "home/"})).json()
    assert (below["levels"], [row["topic"] for row in below["topics"]]) == (["home/b/", "home/many/"], ["home/", "home/a"])
    for prefix in ("", "home/"):
        whole = (await http.get("/topics", params={"prefix": prefix})).json()
        assert await pages(http, "/topics", "levels", prefix=prefix, limit=1) == whole["levels"]
        assert await pages(http, "/topics", "topics", prefix=prefix, limit=1) == whole["topics"]


async def test_only_the_operator_sees_the_tree(users: Site) -> None:
    assert (await users.caller("alice").get("/topics")).status_code == 403


async def test_an_inbox_tells_what_it_points_to_and_nothing_moves(users: Site) -> None:
    alice, bob = users.caller("alice"), users.caller("bob")
    phone = await users.device("alice", "phone")
    await phone.subscribe("chat/#", options=1)
    for number in range(3):
        await bob.post("/conversations/chat/a/messages", json={"payload": str(number)})
    found = (await alice.get("/inbox")).json()
    assert found == {
        "user": "u/alice",
        "first": 1,
        "head": 3,
        "entries": [{"offset": n, "topic": "chat/a", "seq": n} for n in (1, 2, 3)],
    }
    assert [entry["offset"] for entry in (await alice.get("/inbox?limit=2")).json()["entries"]] == [2, 3]
    assert [entry["offset"] for entry in (await alice.get("/inbox?after=1&limit=1")).json()["entries"]] == [2]
    assert (await alice.get("/devices/phone")).json()["offset"] == 0
    assert (await bob.get("/inbox")).json()["entries"] == []
    assert (await bob.get("/inbox?user=u/alice")).status_code == 403


async def test_topics_that_may_not_be_read_any_more_are_not_told(
    sites: Callable[..., AbstractAsyncContextManager[Site]],
) -> None:
    rules = [{"allow": "all", "topics": "#", "users": ["bob"]}, {"allow": "all", "topics": ["open/#", "$SYS/#"]}]
    async with sites(plugins={"acl": {"rules": [*rules, {"allow": ["subscribe"], "topics": "#"}]}}) as made:
        phone = await made.device("alice", "phone")
        await phone.subscribe("#", options=1)
        bob = made.caller("bob")
        for topic in ("open/a", "closed/a"):
            await bob.post(f"/conversations/{topic}/messages", json={"payload": "x"})
        entries = (await made.caller("alice").get("/inbox")).json()["entries"]
        assert [entry["topic"] for entry in entries] == ["open/a", None]
