"""Programs in place of the daemon that a client starts: one serves, another does not come up."""

from __future__ import annotations

import sys
from pathlib import Path

from streamer_client.client import Client

ROOT = Path(__file__).parents[2]


GOOD = """
import os, sys
sys.path[:0] = {path!r}
from tests.support.scripted_daemon import scripted_daemon
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "--ephemeral"
with open(arguments["--socket"] + ".starts", "a") as file:
    file.write("x")
with scripted_daemon(arguments["--socket"]) as daemon:
    os.write(int(arguments["--ready-fd"]), b"READY\\n")
    os.close(int(arguments["--ready-fd"]))
    while not os.path.exists(arguments["--socket"] + ".stop"):
        daemon._stop.wait(0.01)
open(arguments["--socket"] + ".ended", "w").close()
"""


BAD = "import sys; sys.exit('there is no room')"


def command(program: str) -> list[str]:
    path = [str(ROOT), *sys.path]
    return [sys.executable, "-c", program.replace("{path!r}", repr(path))]


def mode_of(client: Client, source: Path) -> str:
    with client.open(source) as checkpoint:
        assert [name for name, _ in checkpoint.tensors()] == ["w"]
        return checkpoint.stats.mode
