"""The kernel's accounts of a process: its peak memory, and its processor time."""

from __future__ import annotations

import os
from pathlib import Path


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had at once."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} has no memory")


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
