"""What the packages of the clients have beside their code."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())["project"]
JAVASCRIPT = json.loads((ROOT / "clients" / "javascript" / "package.json").read_text())


@pytest.mark.parametrize("client", ["python", "javascript"])
def test_a_client_has_the_licence(client: str) -> None:
    """A package cannot take it from above its folder, and npm leaves links out."""
    path = ROOT / "clients" / client / "LICENSE"
    assert not path.is_symlink()
    assert path.read_text() == (ROOT / "LICENSE").read_text()


def test_both_say_the_same_of_themselves() -> None:
    assert PYTHON["license-files"] == ["LICENSE"]  # npm takes it by itself
    for name in ("name", "version", "license", "description"):
        assert PYTHON[name] == JAVASCRIPT[name]
