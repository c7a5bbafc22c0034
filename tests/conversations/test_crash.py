"""Over SIGKILL between any two steps of a change of membership: once the broker is back it is made, or not, on all devices."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.laws_process import BrokerProcess, broker_process, free_port
from tests.support.storages import storage_url
from tests.support.until import wait_until

BOB = "u/bob"
slow = pytest.mark.slow


def configured(http: int, **settings: Any) -> dict[str, Any]:
    plugin = "tests.conversations.crashing.Crashing"
    return {"http": {"bind": f"127.0.0.1:{http}", "operator_file": ""}, "requests": {}, plugin: settings}


def caller(port: int, user: str) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", auth=(user, user), timeout=30)


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/me/conversations").status_code == 200
    except httpx.HTTPError:
        return False


ALWAYS = {("PUT", 3, "sqlite"), ("DELETE", 4, "mongodb")}
EVERY = [(what, step, kind) for kind in ("sqlite", "mongodb") for what in ("PUT", "DELETE") for step in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("what", "step", "kind"), [pytest.param(*one, marks=() if one in ALWAYS else (slow,)) for one in EVERY]
)
async def test_a_change_that_was_cut_off_is_whole_afterwards(tmp_path: Path, what: str, step: int, kind: str) -> None:
    async with storage_url(kind, tmp_path) as url:
        await asyncio.to_thread(cut_off, tmp_path, url, what, step)


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        pytest.param(step, kind, marks=() if (step, kind) in ((1, "sqlite"), (2, "mongodb")) else (slow,))
        for kind in ("sqlite", "mongodb")
        for step in (1, 2, 3, 4, 5)
    ],
)
async def test_a_conversation_whose_beginning_was_cut_off_can_be_begun_again(tmp_path: Path, step: int, kind: str) -> None:
    """By whoever began it; where it is there already, with its owner."""
    async with storage_url(kind, tmp_path) as url:
        await asyncio.to_thread(begun_again, tmp_path, url, step)


def begun_again(tmp_path: Path, url: str, step: int) -> None:
    port, body = free_port(), {"kind": "group", "topic": "conv/lunch", "members": [BOB]}
    with caller(port, "alice") as alice, caller(port, "bob") as bob:
        broker = BrokerProcess(tmp_path, url, plugins=configured(port, of="u/alice", step=step))
        try:
            broker.start()
            wait_until(lambda: answers(alice), "the API answers")
            with pytest.raises(httpx.HTTPError):
                alice.post("/conversations", json=body)
            assert broker.process is not None
            assert broker.process.wait(30) == -9
        finally:
            broker.kill()
        with broker_process(tmp_path, url, plugins=configured(port)):
            wait_until(lambda: answers(alice), "the API answers")
            if step <= 2:  # her membership's own write is the second step
                assert bob.post("/conversations", json=body).status_code == 409
            assert alice.post("/conversations", json=body).status_code == (201 if step <= 2 else 409)
            assert alice.put(f"/conversations/conv/lunch/members/{BOB}", json={}).status_code == 200
            about = alice.get("/conversations/conv/lunch/about").json()
            assert (about["owners"], about["mine"]["role"]) == (["u/alice"], "owner")
            assert [one["user"] for one in alice.get("/conversations/conv/lunch/members").json()["members"]] == ["u/alice", BOB]


def cut_off(tmp_path: Path, url: str, what: str, step: int) -> None:
    port = free_port()
    with caller(port, "alice") as alice, caller(port, "bob") as bob:
        broker = BrokerProcess(tmp_path, url, plugins=configured(port, of=BOB, step=step + (5 if what == "DELETE" else 0)))
        try:
            broker.start()
            wait_until(lambda: answers(alice), "the API answers")
            assert bob.get("/sync", params={"device": "phone"}).status_code == 200
            made = alice.post("/conversations", json={"kind": "group"}).json()["topic"]
            member = f"/conversations/{made}/members/{BOB}"
            if what == "DELETE":
                assert alice.put(member, json={}).status_code == 200
            with pytest.raises(httpx.HTTPError):
                alice.request(what, member, json={} if what == "PUT" else None)
            assert broker.process is not None
            assert broker.process.wait(30) == -9
        finally:
            broker.kill()
        with broker_process(tmp_path, url, plugins=configured(port)):
            wait_until(lambda: answers(alice), "the API answers")
            expected = (what == "PUT") == (step > 2)  # the membership's own write is the second step

            def state() -> tuple[bool, bool, bool]:
                listed = [one["user"] for one in alice.get(f"/conversations/{made}/members").json()["members"]]
                own = [one["topic"] for one in bob.get("/me/conversations").json()["conversations"]]
                page = bob.get("/devices").json()["devices"]
                follows = any(made in [s["filter"] for s in device["subscriptions"]] for device in page)
                return BOB in listed, made in own, follows

            wait_until(lambda: state() == (expected,) * 3, lambda: f"{what} at {step} is whole: {state()}")
            assert alice.put(member, json={}).status_code == 200
            assert state() == (True, True, True)
            assert alice.delete(member).status_code == 204
            assert state() == (False, False, False)
