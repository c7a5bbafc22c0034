"""The commands of docs/access.md, with the rules that stand above them there, print what stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.test_commands import tideline
from tests.support.laws_process import ROOT

_PAGE = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")


def test_the_recipes_work(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)[0] + f"persistence: sqlite:///{tmp_path}/t.db\n")
    sessions = re.findall(r"```console\n(.*?)```", _PAGE, re.DOTALL)
    calls = [one.partition("\n") for one in "".join(sessions).split("$ ")[1:]]
    assert len(calls) == 6
    left = 0
    for command, _, said in calls:
        if command == "echo $?":
            assert said == f"{left}\n"
            continue
        ran = tideline(*shlex.split(command)[1:], "--config", path)
        left = ran.exit_code
        random = re.sub(r"rule [0-9a-f]{8}:", "rule 5f0c1a9e:", ran.output)
        assert random.endswith(said), command
        assert left == int("denied" in said), ran.output
