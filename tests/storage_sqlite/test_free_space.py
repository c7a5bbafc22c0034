"""How often the disk is asked for its free space: seldom where there is plenty, before each group where there is not."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from storage.errors import StorageUnavailable
from storage.sqlite.free_space import FreeSpace

GROUPS = 200


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Grows with each look at a disk."""
    found: list[Path] = []
    ask = os.statvfs

    def statvfs(path: Path) -> os.statvfs_result:
        found.append(path)
        return ask(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    return found


def check(space: FreeSpace, size: int) -> None:
    with suppress(StorageUnavailable):
        space.check(size, lambda: (0, 0))


def test_groups_that_cannot_fill_it_ask_once_for_many(tmp_path: Path, looks: list[Path]) -> None:
    space = FreeSpace(tmp_path / "t.db", 0)
    for _ in range(GROUPS):
        check(space, 1)
    assert 0 < len(looks) < GROUPS // 2


def test_each_group_that_is_more_than_a_look_found_spare_asks_again(tmp_path: Path, looks: list[Path]) -> None:
    space = FreeSpace(tmp_path / "t.db", 0)
    for _ in range(GROUPS):
        check(space, 1 << 50)
    assert len(looks) == GROUPS


def test_below_the_mark_each_group_asks_so_that_work_goes_on_at_once(tmp_path: Path, looks: list[Path]) -> None:
    space = FreeSpace(tmp_path / "t.db", 1 << 60)
    for _ in range(GROUPS):
        check(space, 1)
    assert len(looks) == GROUPS
