"""Topic names, filters, shared subscriptions, and matching."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from broker.packets.codes import MalformedPacket, ReasonCode, TopicFilterInvalid, TopicNameInvalid
from broker.packets.topics import matches, overlap, parse_share, validate_filter, validate_name


@pytest.mark.parametrize("topic", ["a", "/", "//", "a/b", " ", "$SYS/x", "a b/你好", "\ufeffa", "x" * 65535, "你" * 21845])
def test_a_valid_name(topic: str) -> None:
    validate_name(topic)
    validate_filter(topic)


@pytest.mark.parametrize("topic", ["", "+", "#", "a/+", "a/#", "a+", "a#b"])
def test_an_impossible_name(topic: str) -> None:
    with pytest.raises(TopicNameInvalid) as caught:
        validate_name(topic)
    assert caught.value.code is ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize("text", ["a\0b", "a\n", "\x7f", "\x85", "\ufffe", "\ufdd0", "\U0010ffff", "x" * 65536, "你" * 21846])
def test_text_that_is_neither_name_nor_filter(text: str) -> None:
    with pytest.raises(MalformedPacket):
        validate_name(text)
    with pytest.raises(MalformedPacket):
        validate_filter(text)


@pytest.mark.parametrize("filter", ["#", "+", "a/#", "a/+/b", "+/+", "/#", "+/a/#", "/+", "$SYS/#", "$share/", "a//#"])
def test_a_valid_filter(filter: str) -> None:
    validate_filter(filter)


@pytest.mark.parametrize("filter", ["", "##", "a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "++", "+#", "#+", "a/#/"])
def test_an_impossible_filter(filter: str) -> None:
    with pytest.raises(TopicFilterInvalid) as caught:
        validate_filter(filter)
    assert len(str(caught.value)) < 120


def test_an_error_quotes_a_hostile_topic_escaped_and_short() -> None:
    with pytest.raises(TopicNameInvalid) as caught:
        validate_name("\x1b[31m" * 1000 + "#")
    assert caught.value.text.isascii()
    assert "\x1b" not in caught.value.text
    assert len(caught.value.text) < 400


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("a/b", None),
        ("$share", None),
        ("$shared/g/a", None),
        ("$SHARE/g/a", None),
        ("$share/g/a", ("g", "a")),
        ("$share/g/#", ("g", "#")),
        ("$share/g//a", ("g", "/a")),
        ("$share/g//", ("g", "/")),
        ("$share/g/+/b", ("g", "+/b")),
        ("$share/g/$share/h/a", ("g", "$share/h/a")),
    ],
)
def test_shared_subscriptions_are_taken_apart(filter: str, expected: tuple[str, str] | None) -> None:
    assert parse_share(filter) == expected


@pytest.mark.parametrize("filter", ["$share/", "$share/g", "$share/g/", "$share//a", "$share/g+/a", "$share/#/a", "$share/+/a"])
def test_a_malformed_shared_subscription(filter: str) -> None:
    with pytest.raises(TopicFilterInvalid) as caught:
        parse_share(filter)
    assert caught.value.code is ReasonCode.PROTOCOL_ERROR


def test_the_filter_inside_a_shared_subscription_is_judged_too() -> None:
    with pytest.raises(TopicFilterInvalid) as caught:
        parse_share("$share/g/a#")
    assert caught.value.code is ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize(
    ("filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/B", False),
        ("a/b", "a/b/", False),
        ("a/b", "/a/b", False),
        ("#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("a/#", "b", False),
        ("+", "a", True),
        ("+", "/a", False),
        ("+/+", "/a", True),
        ("/+", "/a", True),
        ("+/b", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/+/#", "a", False),
        ("a/+/#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/+", "$SYS/x", True),
        ("$SYS/#", "$SYS", True),
        ("a/#", "a/$SYS", True),
        ("#", "/$SYS", True),
        ("+/$SYS", "a/$SYS", True),
    ],
)
def test_matching(filter: str, topic: str, expected: bool) -> None:
    assert matches(filter, topic) is expected


level = st.sampled_from(("", "a", "b", "$a"))
topics = st.lists(level, min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.builds(lambda levels, tail: "/".join(levels + ["#"] * tail), st.lists(level | st.just("+"), max_size=4), st.booleans())
).filter(bool)


@given(filters, topics)
def test_matching_agrees_with_pahos(filter: str, topic: str) -> None:
    assert matches(filter, topic) == topic_matches_sub(filter, topic)


LEVELS = ["a", "b", "", "$x", "+"]
NAMES = ["/".join(levels) for count in (1, 2, 3, 4) for levels in itertools.product(["a", "b", "", "$x"], repeat=count)]


@given(
    *2
    * [
        st.tuples(st.lists(st.sampled_from(LEVELS), max_size=3), st.booleans()).map(
            lambda made: "/".join([*made[0], "#"] if made[1] or not any(made[0]) else made[0])
        )
    ]
)
@example("/#", "+")  # both would match the empty name, which is none [MQTT-4.7.3-1]
def test_filters_overlap_where_some_topic_matches_both(one: str, other: str) -> None:
    names = [name for name in NAMES if name]
    assert overlap(one, other) == any(matches(one, name) and matches(other, name) for name in names)
