"""What holds for all tests."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Generator, Mapping

import pytest
from hypothesis import HealthCheck, settings

from tests.support import authorities, pending_tasks, rewritten
from tests.support.seeds import examples

# A shell has what it puts in the background ignore ^C, and so do its children: those that a test interrupts would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A loaded machine is slow at times: no test fails for how long one example took.
settings.register_profile("tideline", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tideline")


# Nothing that is collected is garbage, nor ever will be: Python need not look through seven thousand tests again and again.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Before pytest-xdist starts its workers, each of which collects all."""
    if session.config.getoption("numprocesses", None):
        rewritten.keep(session.config)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop is the one that `tideline serve` uses; some folders say that theirs is asyncio's."""
    try:
        import uvloop
    except ImportError:
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_finish() -> None:
    """From now on there is garbage."""
    gc.freeze()
    gc.enable()


pending_tasks.watch()
authorities.keep()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """Whoever leaves a task that nobody ends is the one that fails."""
    try:
        yield
    finally:
        left = pending_tasks.taken()
    assert not left, f"tasks were pending when their event loop closed: {left}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Each run has an order of its own (pytest-randomly); ``-q`` hides its seed, which whoever looks for a failure needs."""
    seed = config.getoption("randomly_seed", None)
    if exitstatus == pytest.ExitCode.TESTS_FAILED and seed is not None:
        terminalreporter.write_line(f"the order was random; the same again: --randomly-seed={seed}")
