"""The order of sessions by key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.sessions.ordered import Ordered
from storage.records import DeviceKey

KEYS = st.builds(DeviceKey, st.sampled_from(["c/a", "u/a", "u/b"]), st.integers(0, 2000).map(str))


@given(st.lists(KEYS, max_size=60), st.integers(0, 4000), KEYS)
def test_it_is_a_sorted_set(changed: list[DeviceKey], many: int, begin: DeviceKey) -> None:
    ordered, model = Ordered(), set[DeviceKey]()
    for key in [*(DeviceKey("c/a", str(number)) for number in range(many)), *changed]:
        if key in model:
            ordered.remove(key)
        else:
            ordered.add(key)
        model ^= {key}
    assert list(ordered.since(DeviceKey("", ""))) == sorted(model)
    assert list(ordered.since(begin)) == sorted(key for key in model if key >= begin)
    for key in sorted(model, reverse=True):
        ordered.remove(key)
    assert not list(ordered.since(DeviceKey("", "")))
