"""What a group's plan costs beside what it says."""

from __future__ import annotations

import gc
import weakref

import pytest

from storage.mongo.documents import timeline_key
from storage.mongo.plan import Plan
from storage.mongo.view import Head, View
from storage.records import Append, Message


class _Recipients(list[str]):
    """Something of a plan to which there can be a weak reference, also where the plan is compiled."""


def test_a_plan_goes_with_its_last_user_and_waits_for_no_garbage_collector() -> None:
    """It holds all of its group."""
    view = View(1, topics={"a": Head(0, 0)}, inboxes={"u/ann": 0})
    gc.disable()
    try:
        group = [Append(Message(1, "a", "u/ann", "phone", 1, 1, b"x"), recipients=_Recipients(["u/ann"]))]
        plan, recipients = Plan(group, view), weakref.ref(group[0].recipients)
        group.clear()
        assert recipients() == plan.store[0][3] == ["u/ann"]
        del plan
        assert recipients() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("seq", [0, 1, 10**15, 10**16 - 1])
def test_a_timelines_key_has_sixteen_digits(seq: int) -> None:
    assert timeline_key("a/b", seq) == f"a/b\0{seq:016d}"
