"""How far a long command is, on standard error: a bar on a terminal, a line every tenth of the way elsewhere."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any, Self

import click


class Progress:
    """``total``: how many there are, about, 0 where `reach` tells it; ``what``: said of each line."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = max(total, 1)
        self._done = 0
        self._tenth = -1
        self._stack = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            bar = click.progressbar(length=self._total, label=self._what, file=sys.stderr, show_pos=True)
            self._bar = self._stack.enter_context(bar)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def reach(self, done: int, total: int) -> None:
        """So many are done, of so many."""
        self._total = max(total, 1)
        if self._bar is not None:
            self._bar.length = self._total
        self.add(done - self._done)

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        tenth = min(self._done, self._total) * 10 // self._total
        if tenth > self._tenth:
            self._tenth = tenth
            click.echo(f"{self._what}: {self._done:,} of {max(self._done, self._total):,}", err=True)
