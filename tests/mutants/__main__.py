"""Break one law at a time in a copy of the code, and run the tests that must notice."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("bench", "broker", "plugins", "storage", "tests", "pyproject.toml", "config.yaml", "Makefile", "docs", "README.md")
PATIENCE = 300.0
"""Seconds that the tests may take. A single one that hangs fails after a minute."""


def copy(to: Path) -> None:
    """The code, without what makes it slow to copy."""
    for name in ROOMS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, to / name)


def outcome(mutant: Mutant) -> str:
    """``killed``, or what is wrong: the mutant survived, or its text is not (once) in the file any more."""
    with tempfile.TemporaryDirectory(prefix="tideline-mutant-") as name:
        copy(Path(name))
        path = Path(name, mutant.file)
        text = path.read_text()
        if text.count(mutant.old) != 1:
            return f"NO LONGER APPLIES: {mutant.file} has its text {text.count(mutant.old)} times"
        path.write_text(text.replace(mutant.old, mutant.new))
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--timeout", "60"]
        pytest += ["-p", "tests.mutants.no_shrinking"]
        environ = {**os.environ, "PYTHONPATH": name}
        try:
            done = subprocess.run(
                [*pytest, *shlex.split(mutant.tests)], cwd=name, env=environ, capture_output=True, text=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            return f"NOT JUDGED: the tests took longer than {PATIENCE:g} s"
    if done.returncode == 1:
        failed = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))), "")
        file, _, test = failed.partition(" ")[2].partition(" - ")[0].partition("::")
        return f"killed by {Path(file).name}::{test}"
    return "SURVIVED" if done.returncode == 0 else f"NOT RUN: {(done.stdout + done.stderr).strip()[-300:]}"


def main(wanted: list[str]) -> int:
    """Try those whose name has one of the words in it, or all; 1 where one was not killed."""
    chosen = [mutant for mutant in MUTANTS if not wanted or any(word in mutant.name for word in wanted)]
    bad = 0
    for mutant in chosen:
        began = time.monotonic()
        result = outcome(mutant)
        bad += not result.startswith("killed")
        print(f"law {mutant.law}  {mutant.name:48} {time.monotonic() - began:4.0f} s  {result}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} mutants were noticed")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
