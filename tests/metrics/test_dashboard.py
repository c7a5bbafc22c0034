"""The dashboard and the alert rules name metrics, labels and functions that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metrics.test_metrics import documented

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "tideline.json"

FUNCTIONS = {"histogram_quantile", "sum", "max", "min", "avg", "rate", "increase", "predict_linear", "label_values", "time"}
WORDS = {"by", "and", "or", "unless", "on", "without"}
OF_TARGETS = {"instance", "job"}
OF_PROCESS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}
_TOKEN = re.compile(r'"[^"]*"|\$?\w*[A-Za-z_]\w*|\[[^\]]*\]|.', re.DOTALL)


def metrics() -> dict[str, frozenset[str]]:
    """Series → its labels: a histogram has three."""
    found: dict[str, frozenset[str]] = {name: frozenset(OF_TARGETS) for name in OF_PROCESS}
    for name, (kind, labels) in documented().items():
        names = [f"{name}_{end}" for end in ("bucket", "sum", "count")] if kind == "histogram" else [name]
        for one in names:
            found[one] = labels | OF_TARGETS | ({"le"} if one.endswith("_bucket") else frozenset())
    return found


def wrong(expression: str, known: dict[str, frozenset[str]]) -> list[str]:
    """What an expression in PromQL names that there is not, and brackets that do not close."""
    problems, used, open_ = [], set[str](), list[str]()
    labels = set[str]()
    before = ""
    for token in (t for t in _TOKEN.findall(expression) if not t.isspace()):
        if token in ("(", "{"):
            open_.append("by" if before == "by" else token)
        elif token in (")", "}"):
            opened = open_.pop() if open_ else ""
            problems += [] if (opened == "{") == (token == "}") and opened else [f"{token} closes nothing"]
        elif re.fullmatch(r"[A-Za-z_]\w*", token):
            if open_ and open_[-1] in ("{", "by"):
                labels.add(token)
            elif token in known:
                used.add(token)
            elif token not in FUNCTIONS | WORDS and not (before == "," and "label_values" in expression):
                problems.append(f"{token} is no metric")
        before = token if token != "," or before != "," else before
    problems += [f"{label} is no label of {sorted(used)}" for label in labels if not all(label in known[one] for one in used)]
    return problems + (["a bracket is open"] if open_ else [])


def alerts() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= set(rule)
            assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= OF_TARGETS | {"name", "what"}
            yield rule["alert"], rule["expr"]


def panels() -> Iterator[tuple[str, str]]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


@pytest.mark.parametrize("expressions", [alerts, panels])
def test_what_is_named_is_there(expressions: Any) -> None:
    known = metrics()
    found = list(expressions())
    assert len(found) > 10
    assert [(title, problems) for title, text in found if (problems := wrong(text, known))] == []


@pytest.mark.parametrize(
    "text",
    [
        "tideline_reddy == 0",
        "sum(rate(tideline_ack_seconds[5m]))",
        'tideline_sessions{status="connected"}',
        "sum by (qos) (rate(tideline_packets_total[5m]))",
        "rate(tideline_packets_total[5m]",
        "tideline_ready)",
        "summ(tideline_ready)",
    ],
)
def test_what_is_not_there_would_be_found(text: str) -> None:
    assert wrong(text, metrics())


def test_most_of_what_there_is_is_on_the_dashboard() -> None:
    shown = " ".join(text for _, text in (*panels(), *alerts()))
    rarely = {"tideline_pending_messages", "tideline_hook_skipped_groups_total", "tideline_events_dropped_total"}
    rarely |= {"tideline_connections_accepted_total", "tideline_sessions_expired_total", "tideline_node_info"}
    assert {name for name in documented() if name not in shown} <= rarely
