"""Failed logins by address, and token buckets: what they add up to over time, with a clock that the test sets."""

from __future__ import annotations

from broker.limits import Buckets
from broker.limits.budget import Budget
from broker.limits.failures import FREE, LONGEST, Failures
from broker.packets.model import Packet, PingReq, Publish


def test_one_device_with_a_wrong_password_is_never_barred_nor_delayed() -> None:
    failures = Failures(100, 60.0)
    for second in range(10_000):
        assert failures.failed("home", float(second)) == 0
    assert failures.barred("home", 10_000.0) == 0


def test_a_flood_waits_longer_and_longer_and_is_then_barred_for_a_while() -> None:
    failures = Failures(100, 60.0)
    delays = []
    while not failures.barred("attic", 1000.0):
        delays.append(failures.failed("attic", 1000.0))
    assert len(delays) == 100
    assert delays[: FREE - 1] == [0] * (FREE - 1)
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST
    assert failures.barred("attic", 1059.0) == 1.0
    assert failures.barred("attic", 1060.0) == 0
    assert failures.barred("cellar", 1000.0) == 0
    assert failures.failed("attic", 1070.0) == 0  # a minute later all is forgotten


def test_who_fails_on_while_barred_is_barred_no_longer() -> None:
    """Others at the address who were right before may go on, and be wrong once."""
    failures = Failures(3, 60.0)
    for _ in range(3):
        failures.failed("attic", 1000.0)
    failures.failed("attic", 1030.0)
    assert failures.barred("attic", 1059.0) == 1.0


def test_who_was_seen_last_is_remembered_longest() -> None:
    failures, buckets = Failures(2, 60.0), Buckets(1.0, 1.0)
    for name in ("first", *map(str, range(19_999)), "first", "one more"):
        failures.failed(name, 0.0)
        buckets.wait(name, 0.0, 9.0)
    assert failures.barred("first", 0.0) == 60.0
    assert buckets.wait("first", 0.0, 9.0) == 2.0


def test_what_is_remembered_is_bounded() -> None:
    failures, buckets = Failures(100, 60.0), Buckets(1.0, 10.0)
    for number in range(50_000):
        failures.failed(str(number), 0.0)
        buckets.wait(str(number), 0.0, 1.0)
    assert len(failures) == len(buckets) == 20_000


def test_a_bucket_gives_its_rate_over_any_time() -> None:
    buckets = Buckets(10.0, 20.0)
    assert [buckets.wait("a", 0.0, 1.0) for _ in range(20)] == [0.0] * 20
    waits = [buckets.wait("a", 0.0, 1.0) for _ in range(12)]
    assert [round(wait, 3) for wait in waits] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.1]
    assert buckets.wait("b", 0.0, 1.0) == 0.0
    assert [buckets.wait("a", 100.0, 1.0) for _ in range(21)] == [0.0] * 20 + [0.1]  # no more is saved up


def test_a_budget_counts_publishes_and_their_bytes() -> None:
    calls: list[int] = []
    budget = Budget(10, 1000, 2.0, 0.0, lambda: calls.append(1))
    small: list[Packet] = [Publish("t", b"x" * 10, 0) for _ in range(20)]
    assert budget.spend([PingReq(), *small], 0.0) == 0.0
    assert (budget.spend(small, 0.0), budget.over_bytes) == (2.0, False)
    assert (budget.spend([Publish("t", b"x" * 5600, 0)], 2.0), budget.over_bytes) == (3.6, True)
    assert budget.spend([], 6.0) == 0.0
    assert budget.spend([*small, *small], 100.0) == 2.0  # of what was not used before, two seconds are saved up
    both: list[Packet] = [Publish("t", b"x" * 60, 0)] * 40
    assert (budget.spend(both, 200.0), budget.over_bytes) == (2.0, False)  # 0.4 s of bytes, too
    assert [budget.spend([], when) for when in (201.0, 201.5)] == [1.0, 0.5]
    assert budget.spend([Publish("t", b"x" * 3000, 0)], 300.0) == 1.0
    assert Budget(10_000, 0, 1.0, 0.0, lambda: None).spend([*small] * 501, 0.0) > 0
    assert Budget(100_000, 0, 1.0, 0.0, lambda: None).spend([*small] * 5001, 0.0) == 0.0  # not worth a pause
    budget.fire()
    assert calls == [1]
