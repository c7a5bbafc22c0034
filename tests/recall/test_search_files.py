"""What was recalled or erased leaves the files of the embedded search index, which a process of its own writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import plugins.recall.erasures as erasures_module
from tests.http.conftest import Site, site
from tests.recall.test_erasure import erased
from tests.support.until import until


@pytest.fixture
async def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """Two users talked in two conversations, and the index has each message from a transaction of its own."""
    monkeypatch.setattr(erasures_module, "_LOOK", 0.05)
    search = {"path": str(tmp_path / "search.db"), "gather": 0.0}
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={"recall": {}, "search": search}) as made:
        for number in "012":
            for user in ("ann", "bob"):
                for room in "ab":
                    await say(made, user, f"chat/{room}", f"{user}{room}secret{number}")
            await say(
                made, "ann", "chat/a", f"{'abc'[int(number)]}annasecretletters"
            )  # as such, it is in the list for typos, too
        assert any("search.db" in text for text in left(tmp_path, b"annasecret"))
        yield made


async def say(made: Site, user: str, topic: str, text: str) -> str:
    answer = await made.caller().post("/messages", json={"topic": topic, "payload": text}, params={"user": f"c/{user}"})
    assert answer.status_code == 201, answer.text
    await until(lambda: finds(made, text))
    return str(answer.json()["id"])


async def finds(made: Site, text: str) -> bool:
    return bool((await made.caller().get("/search", params={"q": text})).json()["total"])


def left(folder: Path, *words: bytes) -> list[str]:
    """Where words are in a file, of the store too."""
    contents = {file.name: file.read_bytes() for file in folder.glob("*.db*")}
    return [f"{name}: {word!r}" for name, content in contents.items() for word in words if word in content]


async def gone(folder: Path, *words: bytes) -> None:
    await until(lambda: not left(folder, *words), lambda: str(left(folder, *words)))


async def test_of_a_user(chat: Site, tmp_path: Path) -> None:
    await erased(chat, user="c/ann")
    await gone(tmp_path, b"annasecret", b"annbsecret")
    assert await finds(chat, "bobasecret2")


async def test_of_a_conversation(chat: Site, tmp_path: Path) -> None:
    await erased(chat, conversation="chat/a")
    await gone(tmp_path, b"annasecret", b"bobasecret")
    assert await finds(chat, "annbsecret2")


@pytest.mark.parametrize("named", ["first", "second"])
async def test_of_all_versions_of_a_message_of_which_one_is_named(chat: Site, tmp_path: Path, named: str) -> None:
    """Also what was said after it stays."""
    caller = chat.caller()
    first = await say(chat, "ann", "chat/a", "xylophonequartz")
    ids = {"first": first}
    for version, text in (("second", "violaquartz"), ("third", "zitherquartz")):
        answer = await caller.post(f"/messages/{first}/versions", json={"payload": text}, params={"user": "c/ann"})
        ids[version] = answer.json()["id"]
    await until(lambda: finds(chat, "zitherquartz"))
    assert (await caller.post(f"/messages/{ids[named]}/recall", json={})).is_success
    await gone(tmp_path, b"xylophonequartz", b"violaquartz", b"zitherquartz")
    assert not await finds(chat, "zitherquartz")
    assert await finds(chat, "annasecret2")


async def test_of_one_message(chat: Site, tmp_path: Path) -> None:
    id = await say(chat, "ann", "chat/a", "xylophonequartz")
    assert (await chat.caller().post(f"/messages/{id}/recall", json={})).is_success
    await gone(tmp_path, b"xylophonequartz")
    assert await finds(chat, "annasecret2")
