"""A process is told dead only where that is sure."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from storage.mongo.process import has_ended, this_process

pytestmark = pytest.mark.skipif(not this_process(), reason="the system does not tell when a process was started")


def name_of_ended() -> str:
    """The name of a process that has ended."""
    code = "from storage.mongo.process import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_a_process_that_lives_has_not_ended() -> None:
    assert not has_ended(this_process())


def test_a_process_that_ended_has_ended() -> None:
    assert has_ended(name_of_ended())


def test_a_number_that_was_given_again_is_another_process() -> None:
    boot, processes, time, pid, started = this_process().split(" ")
    assert has_ended(f"{boot} {processes} {time} {pid} {int(started) - 1}")


@pytest.mark.parametrize("field", [0, 1, 2])
def test_nothing_is_known_of_another_machine_boot_or_container(field: int) -> None:
    fields = name_of_ended().split(" ")
    fields[field] = "another"
    assert not has_ended(" ".join(fields))


@pytest.mark.parametrize("name", ["", "x", "a b c d e", "- - - - -"])
def test_what_is_no_name_says_nothing(name: str) -> None:
    assert not has_ended(name)


def test_a_process_of_another_user_lives() -> None:
    boot, processes, time, _, _ = this_process().split(" ")
    if os.getpid() == 1:
        pytest.skip("this is process 1")
    with open("/proc/1/stat") as stat:
        started = stat.read().rpartition(")")[2].split()[19]
    assert not has_ended(f"{boot} {processes} {time} 1 {started}")
