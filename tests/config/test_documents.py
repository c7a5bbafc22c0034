"""Each configuration that the documents show is right, put into the one that comes with Tideline as they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_commands import ROOT, tideline

OTHERS = {"scrape_configs", "static_configs", "rule_files"}
"""Sections of Prometheus."""
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for number, text in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
    if not OTHERS & set(yaml.safe_load(text))
]


def programs(folder: Path) -> None:
    """Write the plugins that the documents show, each to the file that its first line names."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        for name, text in re.findall(
            r"^```python\n# (\w+\.py)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("text", SHOWN)
def test_a_configuration_of_the_documents_is_right(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    shown = yaml.safe_load(text)
    plugins = {**config["plugins"], **shown.pop("plugins", {})}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({**config, **shown, "plugins": plugins}), encoding="utf-8")
    checked = tideline("check", "--config", path)
    wrong = [line for line in checked.output.splitlines() if line.startswith("tideline: ")]
    missing = [line for line in wrong if re.search(r"no such file|No such file", line)]  # those are the reader's own
    assert wrong == missing
    assert checked.exit_code == (2 if missing else 0), checked.output


def test_the_configurations_of_all_features_are_among_them() -> None:
    found = {str(one.id).partition("-")[0] for one in SHOWN}
    assert {"conversations", "receipts", "presence", "attachments", "rules", "webhooks", "console"} <= found
