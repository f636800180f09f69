"""The names that users import stay what they are, whatever was imported before."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import streamer_client


def test_no_room_has_the_name_of_something_public() -> None:
    """Importing a subpackage would put it in the place of the function that has its name."""
    rooms = {module.name for module in pkgutil.iter_modules(streamer_client.__path__)}
    assert not rooms & set(streamer_client.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "zmq", "numpy", "boto3", "streamer_client.launch")
    script = f"import sys, streamer_client; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"
