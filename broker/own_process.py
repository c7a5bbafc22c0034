"""Starting one of this program's own modules in another process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_TREE = str(Path(__file__).resolve().parents[1])


def own_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module; to be used with `own_environment`.

    Without the interpreter's ``-P``, a folder ``plugins`` or ``storage`` where the broker was started would be taken for ours.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def own_environment() -> dict[str, str]:
    """The environment in which that module is found where this one was, compiled or not."""
    paths = filter(None, (_TREE, os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
