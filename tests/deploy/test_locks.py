"""The locks in requirements/ are what `make lock` makes of pyproject.toml, as far as can be told without an index."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines(name: str) -> list[str]:
    first, *rest = (ROOT / "requirements" / name).read_text().splitlines()
    assert first == "# Made by make lock from pyproject.toml; do not edit."
    return rest


def versions(name: str) -> dict[str, set[str]]:
    """By package: the version, or those for different Pythons."""
    found: dict[str, set[str]] = {}
    for requirement in map(Requirement, lines(name)):
        (only,) = requirement.specifier
        assert only.operator == "=="
        found.setdefault(canonicalize_name(requirement.name), set()).add(only.version)
    return found


def asked(extras: set[str]) -> list[Requirement]:
    """What pyproject.toml asks for, on any Python, with what the extras name of each other."""
    found = list(PROJECT["dependencies"])
    for extra in extras:
        found += PROJECT["optional-dependencies"][extra]
    requirements = list(map(Requirement, found))
    inner = {extra for requirement in requirements if requirement.name == "tideline" for extra in requirement.extras}
    return asked(extras | inner) if inner - extras else [each for each in requirements if each.name != "tideline"]


@pytest.mark.parametrize(("name", "extras"), [("core.txt", set()), ("image.txt", {"mongodb", "otel"}), ("test.txt", {"test"})])
def test_a_lock_has_what_pyproject_asks_for(name: str, extras: set[str]) -> None:
    """One version of each, whatever the Python: what our modules import was tried with that one."""
    locked = versions(name)
    for requirement in asked(extras):
        (version,) = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, and {version} is locked: make lock"


@pytest.mark.parametrize("name", ["core.txt", "image.txt"])
def test_tests_run_with_what_is_installed(name: str) -> None:
    assert versions(name).items() <= versions("test.txt").items()


@pytest.mark.parametrize("name", ["core.txt", "image.txt", "test.txt", "zig.txt"])
def test_a_lock_names_no_index(name: str) -> None:
    """Where packages come from is a matter of the machine."""
    for line in lines(name):
        assert Requirement(line).url is None  # and it is no option, and no path
