"""Settings under ``plugins: jobs:``: what is wrong is said with where, and what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from broker.config.check import plugin_problems
from broker.config.settings import ConfigError, Settings, build
from broker.config.sources import read_yaml


def problems(yaml: str, **environ: str) -> list[str]:
    try:
        settings = build(read_yaml(f"plugins: {{jobs: {yaml}}}"), environ)
    except ConfigError as error:
        return error.problems
    return plugin_problems(settings)


@pytest.mark.parametrize(
    "yaml",
    [
        "{}",
        "{retention: {schedule: 30 3 * * *, rules: [{filter: a/#, max_age: 30d, max_messages: 5, even_unacknowledged: true}]}}",
        "{inboxes: {schedule: off, keep: 0}, sessions: {schedule: never}, index: {schedule: 7d}, share: 0.1}",
    ],
)
def test_what_is_right(yaml: str) -> None:
    assert problems(yaml) == []


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("{retension: {}}", "jobs.retension (line 1): unknown setting, did you mean 'retention'?"),
        ("{retention: {rule: []}}", "jobs.retention.rule (line 1): unknown setting, did you mean 'rules'?"),
        (
            "{retention: {rules: [{filter: a, max_ag: 1d}]}}",
            "rules[0].max_ag (line 1): unknown setting, did you mean 'max_age'?",
        ),
        ("{retention: {rules: [{max_age: 1d}]}}", "jobs.retention.rules[0].filter (line 1): is missing"),
        ("{retention: {rules: [{filter: a/#/b}]}}", "retention.rules[0].filter (line 1): topic filter 'a/#/b': '#' must"),
        ("{retention: {rules: [{filter: a, max_age: soon}]}}", "rules[0].max_age (line 1): 'soon' of 'a' must be a duration"),
        (
            "{retention: {rules: [{filter: a, max_messages: -1}]}}",
            "max_messages (line 1): -1 of 'a' must be 0 or more",
        ),
        ("{retention: {rules: [{filter: a, max_messages: many}]}}", "max_messages (line 1): 'many' must be a whole number"),
        ("{retention: {rules: [{filter: a, max_messages: yes}]}}", "max_messages (line 1): true must be a whole number"),
        ("{retention: {rules: [{filter: a, max_age: yes}]}}", "max_age (line 1): true must be text, a whole number"),
        ("{retention: {max_bytes: yes}}", "max_bytes (line 1): true must be text"),
        ("{inboxes: {keep: no}}", "inboxes.keep (line 1): false must be a whole number"),
        ("{share: yes}", "share (line 1): true must be a number"),
        ("{retention: {schedule: daily}}", "retention.schedule (line 1): 'daily' must be an interval"),
        ("{inboxes: {keep: -5}}", "inboxes.keep (line 1): -5 must be 0 or more"),
        ("{inboxes: 5}", "inboxes (line 1): 5 must be a mapping of settings"),
        ("{share: 2}", "share (line 1): 2 must be 0.01 to 1"),
    ],
)
def test_what_is_wrong(yaml: str, told: str) -> None:
    (problem,) = problems(yaml)
    assert told in problem


def test_the_environment_reaches_inside() -> None:
    environ: dict[str, Any] = {
        "TIDELINE__PLUGINS__JOBS__INBOXES__KEEP": "7",
        "TIDELINE__PLUGINS__JOBS__RETENTION__RULES__0__FILTER": "a/#",
        "TIDELINE__PLUGINS__JOBS__RETENTION__RULES__0__MAX_AGE": "1d",
    }
    assert problems("{}", **environ) == []
    settings = build(read_yaml("plugins: {jobs: {}}"), environ)
    assert settings.plugins["jobs"] == {"inboxes": {"keep": 7}, "retention": {"rules": [{"filter": "a/#", "max_age": "1d"}]}}
    assert "jobs" in Settings().plugins
