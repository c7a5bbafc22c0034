"""A user whom the modes of files hold for, also where root runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NOBODY = 65534


@contextmanager
def no_privileges() -> Iterator[None]:
    """What is done meanwhile is done by a user whom the modes of files hold for."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.setresuid(NOBODY, NOBODY, 0)
    except OSError:
        pytest.skip("this machine lets root be nobody else")
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
