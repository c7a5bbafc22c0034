"""The recipes of docs/rules.md: each configuration loads, and each dry run says what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.test_commands import tideline

_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rules.md").read_text()
_RECIPES = re.findall(r"```yaml\n(.*?)```.*?```console\n(.*?)```", _PAGE, re.DOTALL)


@pytest.mark.parametrize(("configuration", "session"), _RECIPES)
def test_a_recipe_does_what_the_page_says(configuration: str, session: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(configuration)
    for asked in session.split("$ tideline ")[1:]:
        command, _, said = asked.partition("\n")
        ran = tideline(*shlex.split(command), "--config", str(path))
        assert (ran.output, ran.exit_code) == (said, int("fails:" in said))


def test_all_recipes_of_the_page_are_run() -> None:
    assert len(_RECIPES) == _PAGE.count("```yaml") == 4
