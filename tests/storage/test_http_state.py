"""Who takes part, who has read what, and bearer tokens."""

from __future__ import annotations

from typing import Any, cast

import pytest

from storage.interface import Membership, Participation, Storage, Tokens
from storage.records import DropTokens, Join, MarkRead, SaveToken, Token
from tests.storage.backends import Backend
from tests.storage.samples import START, Maker


@pytest.fixture
def state(storage: Storage) -> Any:
    assert isinstance(storage, Participation)
    assert isinstance(storage, Tokens)
    return cast(Any, storage)


def token(number: int, user: str = "u/ann") -> Token:
    return Token(f"t{number}", f"{number:064x}", user, f"label {number}", START + number, START + 1000)


async def test_a_user_takes_part_in_what_was_joined_and_in_nothing_else(state: Any, make: Maker) -> None:
    await state.commit([make.append("b"), make.append("b"), make.append("a/é"), Join([("u/ann", "b"), ("u/ann", "a/é")])])
    await state.commit([Join([("u/ann", "b"), ("u/bob", "empty")])])
    assert await state.memberships("u/ann") == [Membership("a/é", 1, 1, 0), Membership("b", 1, 2, 0)]
    assert await state.memberships("u/bob") == [Membership("empty", 1, 0, 0)]
    assert await state.memberships("u/eve") == []
    assert await state.takes_part("u/ann", "b")
    assert not await state.takes_part("u/bob", "b")
    assert not await state.takes_part("u/ann", "")


async def test_memberships_come_in_pages_by_the_names_bytes(state: Any) -> None:
    names = ["a", "a/b", "b", "z", "\uffff", "\U0001f600"]
    await state.commit([Join([("u/ann", name) for name in reversed(names)])])
    found: list[str] = []
    while page := await state.memberships("u/ann", after=found[-1] if found else "", limit=2):
        found += [membership.topic for membership in page]
    assert found == sorted(names, key=str.encode)


async def test_a_read_position_moves_forward_unless_it_is_told_to_go_back(state: Any, make: Maker) -> None:
    marks = [
        MarkRead("u/ann", "a", 2),
        MarkRead("u/ann", "a", 1),
        MarkRead("u/ann", "a", 9),
        MarkRead("u/ann", "a", 1, back=True),
    ]
    await state.commit([*make.appends(3, "a"), Join([("u/ann", "a")]), *marks])
    assert [(mark.position, mark.last) for mark in marks] == [(2, 3), (2, 3), (3, 3), (1, 3)]
    assert await state.read_position("u/ann", "a") == 1
    assert await state.read_position("u/bob", "a") == 0
    assert await state.memberships("u/ann") == [Membership("a", 1, 3, 1)]


async def test_a_position_sees_the_messages_of_its_own_group_before_it(state: Any, make: Maker) -> None:
    early, late = MarkRead("u/ann", "a", 5), MarkRead("u/ann", "a", 5)
    await state.commit([make.append("a"), early, make.append("a"), late])
    assert (early.position, late.position) == (1, 2)


async def test_expired_messages_are_counted(state: Any, make: Maker) -> None:
    expiries = [0, START + 10, START + 20, 0, START + 30]
    await state.commit([make.append("a", expires=at) for at in expiries])
    assert await state.expired_between("a", 0, START + 20) == 2
    assert await state.expired_between("a", 2, START + 20) == 1
    assert await state.expired_between("a", 0, START + 9) == 0
    assert await state.expired_between("a", 0, START + 99) == 3
    assert await state.expired_between("none", 0, START + 99) == 0
    await state.prune_conversation("a", 3)
    assert await state.expired_between("a", 0, START + 99) == 2


async def test_a_users_own_messages_are_counted_without_those_that_expired(state: Any, make: Maker) -> None:
    await state.commit(
        [
            make.append("a", user=user, expires=at)
            for user, at in [("u/ann", 0), ("u/bob", 0), ("u/ann", START + 10), ("u/ann", 0), ("u/ann", START + 99)]
        ]
    )
    assert await state.sent_between("a", "u/ann", 0, START + 20) == 3
    assert await state.sent_between("a", "u/ann", 1, START + 9) == 3
    assert await state.sent_between("a", "u/bob", 2, START) == await state.sent_between("none", "u/ann", 0, START) == 0
    await state.prune_conversation("a", 4)
    assert await state.sent_between("a", "u/ann", 0, START + 20) == 2


async def test_tokens_are_found_by_digest_and_by_user(state: Any) -> None:
    await state.commit([SaveToken(token(2)), SaveToken(token(1)), SaveToken(token(3, "u/bob"))])
    assert await state.token(token(1).digest) == token(1)
    assert await state.token("f" * 64) is None
    assert await state.tokens("u/ann") == [token(1), token(2)]
    assert await state.tokens("") == [token(1), token(2), token(3, "u/bob")]
    await state.commit([DropTokens(["t1", "nobody"])])
    assert await state.token(token(1).digest) is None
    assert await state.tokens("u/ann") == [token(2)]


async def test_all_of_it_survives_a_restart(durable: Backend, make: Maker) -> None:
    storage = await durable.open()
    await storage.commit([make.append("a"), Join([("u/ann", "a")]), MarkRead("u/ann", "a", 1), SaveToken(token(1))])
    again = cast(Any, await durable.reopen(storage))
    try:
        assert await again.memberships("u/ann") == [Membership("a", 1, 1, 1)]
        assert await again.tokens("") == [token(1)]
    finally:
        await again.close()
