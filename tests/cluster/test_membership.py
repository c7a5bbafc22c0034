"""Who is dead: a node that showed no new beat while this one's own beats succeeded for a lease's time, and nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.cluster.membership import BEATS, Membership
from storage.cluster import DEAD, Node

LEASE = 8.0
PERIOD = LEASE / BEATS

ME = Node(1, 11, "me")


def other(beat: int, *, token: int = 12, state: str = "up") -> Node:
    return Node(2, token, "other", state, beat)


def steadily(members: Membership, beats: int, node: Node, start: float = 0.0) -> list[Node]:
    """The verdict after so many of our own beats, one each period, while the other's is the same."""
    found: list[Node] = []
    for number in range(beats):
        found = members.beat(start + number * PERIOD, [ME, node])
    return found


def test_a_node_without_a_new_beat_is_dead_after_a_lease_of_our_own_beats() -> None:
    members = Membership(ME, LEASE)
    assert steadily(members, BEATS, other(1)) == []
    assert members.beat(LEASE, [ME, other(1)]) == [other(1)]


def test_a_beat_begins_the_time_again_whatever_its_number() -> None:
    members = Membership(ME, LEASE)
    assert steadily(members, BEATS, other(500)) == []
    assert steadily(members, BEATS, other(3), LEASE) == []  # its clock, or the database's, was set back: no clocks are compared


def test_the_time_of_an_outage_counts_for_nobody() -> None:
    """! An observer counts only the time in which its own beats succeeded."""
    members = Membership(ME, LEASE)
    steadily(members, BEATS, other(1))
    members.failed()
    assert members.beat(LEASE * 100, [ME, other(1)]) == []  # the database is back, and the other had no time to beat yet
    assert members.beat(LEASE * 100 + PERIOD / 2, [ME, other(1)]) == []
    assert members.beat(LEASE * 100 + PERIOD, [ME, other(2)]) == []


def test_a_freeze_of_our_own_counts_for_nobody() -> None:
    members = Membership(ME, LEASE)
    members.beat(0.0, [ME, other(1)])
    assert members.beat(LEASE * 100, [ME, other(1)]) == []


def test_we_never_bury_ourselves_and_nobody_twice() -> None:
    members = Membership(ME, LEASE)
    assert steadily(members, BEATS * 3, other(1, state=DEAD)) == []
    assert all(members.beat(LEASE * 3 + n * PERIOD, [ME]) == [] for n in range(BEATS * 3))


@given(st.lists(st.tuples(st.floats(0.01, 5 * LEASE), st.booleans(), st.booleans()), max_size=60))
def test_whoever_beats_once_in_our_every_lease_lives(rounds: list[tuple[float, bool, bool]]) -> None:
    """Random pauses and failures of ours, and a node that is dead only where it did not beat for a lease of good time."""
    members, at, beat, good, last_ok = Membership(ME, LEASE), 0.0, 1, 0.0, False
    for pause, ours, theirs in rounds:
        at += pause
        if theirs:
            beat += 1
        if not ours:
            members.failed()
            last_ok = False
            continue
        good = good + pause if last_ok else good
        last_ok = True
        found = members.beat(at, [ME, other(beat)])
        if theirs:
            assert found == []
        if found:
            assert good >= LEASE


def test_a_silent_node_is_asked_once_until_it_beats_again() -> None:
    """! A holder that is silent is suspected once for all of its devices, not a time-out each."""
    members = Membership(ME, LEASE)
    members.beat(0.0, [ME, other(1)])
    assert members.answers(12)
    members.suspect(12)
    assert not members.answers(12)
    members.beat(1.0, [ME, other(1)])
    assert not members.answers(12)
    members.beat(2.0, [ME, other(2)])
    assert members.answers(12)


def test_who_is_dead_or_gone_is_not_asked_and_who_just_came_is() -> None:
    members = Membership(ME, LEASE)
    members.beat(0.0, [ME, other(1, state=DEAD)])
    assert [members.answers(token) for token in (11, 12, 9, 13)] == [True, False, False, True]
    assert members.patience == LEASE / 5
    assert Membership(ME, 600.0).patience == 2.0
