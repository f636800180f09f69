"""Fixtures of all tests. Light: imports no torch, so that unit tests start at once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from streamer_client.storage.http.pool import close_idle
from tests.support.daemon import DaemonProcess, Daemons, daemons
from tests.support.leaks import leaked, mark_session, snapshot
from tests.support.loader import LoaderServer, loader_server
from tests.support.waiting import eventually

SETTLE_S = 60.0 if "PYTEST_XDIST_WORKER" in os.environ else 5.0
"""Seconds in which the leftovers of a test may go. They take longer beside other processes that run
tests: one of those may have killed a daemon that does not serve again yet, and for that while the
daemon's slabs seem to belong to nobody."""


def pytest_configure() -> None:
    mark_session()
    # Hypothesis measures both limits in wall-clock time, which other processes may use up.
    settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves a descriptor, thread, process or segment behind.

    This fixture is set up before the test's own function-scoped fixtures, and so checks after their
    ends. Whatever a fixture of wider scope keeps was there before, and is no leak. Ends that take a
    moment are waited for.
    """
    before = snapshot()
    yield
    close_idle()  # A process keeps idle connections to stores by design, so they are no leak.
    if not leaked(before):
        return
    # A file that only a reference cycle holds is reported by ResourceWarning, not by this check.
    gc.collect()
    try:
        eventually(lambda: not leaked(before), SETTLE_S)
    except AssertionError:
        lines = "\n  ".join(leaked(before))
        pytest.fail(
            f"the test leaves behind:\n  {lines}\nclose, join, wait for or unlink them",
            pytrace=False,
        )


@pytest.fixture
def daemon_maker() -> Iterator[Daemons]:
    """Makes real daemons for a test, and ends them after it."""
    with daemons() as made:
        yield made


@pytest.fixture
def streamerd(daemon_maker: Daemons) -> DaemonProcess:
    """A real daemon with 64 KiB blocks and a limit of 16 of them."""
    return daemon_maker.start()


@pytest.fixture(scope="session")
def loaders() -> Iterator[LoaderServer]:
    """Makes client processes; keeps torch imported for the next one."""
    with loader_server() as server:
        yield server
