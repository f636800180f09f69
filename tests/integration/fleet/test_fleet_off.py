"""Where no fleet is configured, no code of fleets is loaded and no process of one is started."""

from __future__ import annotations

import subprocess
import sys

from tests.support.daemon import DaemonProcess
from tests.support.fleet_nodes import FLEET_PROCESS, descendants, name_of

LOADED = """
import streamerd.daemon, streamerd.workers.in_worker.process, sys
print(*(name for name in sys.modules if name.startswith(("streamerd.fleet", "streamerd.peering"))))
"""


def test_nothing_of_a_fleet_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_daemon_without_a_fleet_has_no_process_for_it(streamerd: DaemonProcess) -> None:
    assert streamerd.status()["fleet"] is None
    names = {name_of(pid) for pid in descendants(streamerd.pid)}
    assert "streamerd-fetch" in names
    assert FLEET_PROCESS not in names
