"""Ends a process together with its parent, and sets the process's name."""

from __future__ import annotations

import ctypes
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15

_libc: Final = ctypes.CDLL(None)


def die_with_the_parent() -> None:
    """Have the kernel kill this process when its parent ends, whatever it is doing then."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """Set the name that `ps -o comm`, `top` and the kernel's log show; at most 15 letters."""
    _libc.prctl(_PR_SET_NAME, name.encode())
