"""What a log tells of a flood."""

from __future__ import annotations

import logging

import pytest

from broker.rate_limited_log import LINES, RateLimitedLog

logger = logging.getLogger("broker.flood")


def test_one_key_has_a_line_per_interval_and_another_is_not_hidden_by_it(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(logger, 60)
    for _ in range(1000):
        log.warning("no %s", "a", key="a")
    log.warning("no %s", "b", key="b")
    log.warning("no %s", "b", key="b")
    assert caplog.messages == ["no a", "no b (999 such lines were left out before this one)"]


def test_many_keys_are_bounded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(logger, 60)
    for number in range(1000):
        log.warning("no %d", number, key=number)
    assert len(caplog.messages) == LINES
    log._ends = 0  # the interval is over
    log.warning("no more", key="again")
    assert caplog.messages[-1] == f"no more ({1000 - LINES} such lines were left out before this one)"
