"""Test modules as pytest imports them, their assertions rewritten: kept once, on all cores, before the workers of pytest-xdist
begin, each of which would rewrite every module for itself in a new clone."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

_TESTS = Path(__file__).resolve().parents[1]


def keep(config: pytest.Config) -> None:
    """Write what pytest would look for and not find."""
    if sys.dont_write_bytecode:
        return
    modules = [module for pattern in ("test_*.py", "conftest.py") for module in _TESTS.rglob(pattern)]
    missing = [module for module in modules if rewrite._read_pyc(module, _kept(module)) is None]
    if missing:
        # Whoever is forked has pytest's settings, and what it imported.
        with multiprocessing.get_context("fork").Pool(initializer=_given, initargs=(config,)) as pool:
            pool.map(_keep, missing)


_configs: list[pytest.Config] = []


def _given(config: pytest.Config) -> None:
    _configs[:] = [config]


def _keep(module: Path) -> None:
    (config,) = _configs
    kept = _kept(module)
    kept.parent.mkdir(exist_ok=True)
    source, code = rewrite._rewrite_test(module, config)
    rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source, kept)


def _kept(module: Path) -> Path:
    return rewrite.get_cache_dir(module) / (module.stem + rewrite.PYC_TAIL)
