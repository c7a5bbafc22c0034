"""Break one law at a time in a copy of the code, and run the tests that must notice."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("bench", "broker", "plugins", "storage", "tests", "pyproject.toml", "config.yaml", "Makefile", "docs", "README.md")
PATIENCE = 300.0
"""Seconds that the tests may take. A single one that hangs fails after a minute."""
PLAYS = 600
"""Of the model of a cluster, which of the faults that it is given needs 375 for one, and 160 or less for the others."""
AT_ONCE = 2
"""Mutants at a time: tests that wait leave a core idle, and more of them would only be slower each."""


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
        pytest += ["-p", "no:randomly"]  # so that a mutant is killed by the same test each time
        pytest += ["-p", "tests.mutants.no_shrinking"]
        environ = {**os.environ, "PYTHONPATH": name, "TIDELINE_PLAYS": str(PLAYS)}
        try:
            done = subprocess.run(
                [*pytest, *shlex.split(mutant.tests)], cwd=name, env=environ, capture_output=True, text=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            return f"NOT JUDGED: the tests took longer than {PATIENCE:g} s"
    if done.returncode == 1:
        failed = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))), "")
        node, _, why = failed.partition(" ")[2].partition(" - ")
        file, _, test = node.partition("::")
        late = ", which took too long: look whether that is the mutant's doing" if "Timeout" in why else ""
        return f"killed by {Path(file).name}::{test}{late}"
    return "SURVIVED" if done.returncode == 0 else f"NOT RUN: {(done.stdout + done.stderr).strip()[-300:]}"


def tried(mutants: list[Mutant]) -> Iterator[tuple[Mutant, float, str]]:
    """Each mutant with the seconds that it took and its outcome, as they come."""

    def timed(mutant: Mutant) -> tuple[Mutant, float, str]:
        began = time.monotonic()
        result = outcome(mutant)
        return mutant, time.monotonic() - began, result

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for done in as_completed([threads.submit(timed, mutant) for mutant in mutants]):
            yield done.result()


def main(wanted: list[str]) -> int:
    """Try those whose name has one of the words in it, or all; 1 where one was not killed."""
    chosen = [mutant for mutant in MUTANTS if not wanted or any(word in mutant.name for word in wanted)]
    unnoticed: list[str] = []
    for mutant, seconds, result in tried(chosen):
        if not result.startswith("killed"):
            unnoticed.append(f"{mutant.name}: {result}")
        print(f"law {mutant.law}  {mutant.name:48} {seconds:4.0f} s  {result}", flush=True)
    print("\n".join([f"{len(chosen) - len(unnoticed)} of {len(chosen)} mutants were noticed", *unnoticed]))
    return 1 if unnoticed or not chosen else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
