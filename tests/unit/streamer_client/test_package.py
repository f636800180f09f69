"""What users import: names that stay what they are, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import streamer_client
from streamer_client.connect import link
from streamer_client.connect.link import Link


def test_connect_stays_a_function_beside_the_room_of_that_name() -> None:
    assert callable(streamer_client.connect)
    assert link.Link is Link


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "zmq", "numpy", "boto3", "streamer_client.launch")
    script = f"import sys, streamer_client; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"
