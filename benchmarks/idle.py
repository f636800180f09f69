"""Measures the daemon's cost when it has nothing to do: `python -m benchmarks.idle [PROGRAM]`.

Starts a daemon on a socket of its own. Prints the processor time until it is ready, its private
memory, and its share of a core while idle; each figure is for all of its processes together.
PROGRAM is by default this environment's daemon; give an installed one, such as
/usr/lib/streamerd/bin/streamerd, to measure that.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

IDLE_S: Final = 60.0
_TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _cpu_s(pids: list[int]) -> float:
    stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / _TICKS_A_S


def _private_bytes(pids: list[int]) -> int:
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(
        1024 * int(size) for text in rollups for size in re.findall(r"Private_\w+: +(\d+) kB", text)
    )


def main(program: list[str]) -> None:
    """Measure one daemon."""
    with tempfile.TemporaryDirectory() as directory:
        ready, told = os.pipe()
        flags = [f"--socket={directory}/s", f"--ready-fd={told}", "--memory-limit=64MiB"]
        daemon = subprocess.Popen([*program, *flags, "--ephemeral"], pass_fds=[told])
        os.close(told)
        try:
            os.read(ready, 16)
            pids = _family(daemon.pid)
            print(f"processes        {len(pids)}")
            print(f"CPU to ready     {_cpu_s(pids):.2f} s")
            time.sleep(5)
            print(f"private memory   {_private_bytes(pids) / (1 << 20):.1f} MiB")
            before_s = _cpu_s(pids)
            time.sleep(IDLE_S)
            print(f"CPU while idle   {100 * (_cpu_s(pids) - before_s) / IDLE_S:.3f} % of a core")
        finally:
            daemon.terminate()
            daemon.wait()
            os.close(ready)


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable, "-m", "streamerd"])
