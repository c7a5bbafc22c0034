"""The mutants themselves: `make mutants` runs them, for which each must still find its text."""

from __future__ import annotations

import shlex

import pytest

from tests.mutants.__main__ import ROOT
from tests.mutants.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_applies(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1


def test_the_page_of_the_laws_names_what_notices_them() -> None:
    """Each file of tests that a mutant names, or its folder; and the tests that go through everything."""
    page = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
    files = {word.partition("::")[0] for mutant in MUTANTS for word in shlex.split(mutant.tests) if word.startswith("tests/")}
    files |= {"tests/laws/test_crash_sqlite.py", "tests/cluster_laws/test_kills.py", "tests/cluster_model/test_model.py"}
    named = {file for file in files if f"{file.rpartition('/')[2]}`" in page or f"`{'/'.join(file.split('/')[:2])}`" in page}
    assert files - named == set()
