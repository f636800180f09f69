"""Tells how much of the shared-memory mount other daemons' slabs take already.

This module owns the part of slabs' names that tells their instance. It runs in the main process,
when the default of `memory_limit` is computed, and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

SLAB_PREFIX: Final = "streamerd."
"""The names of all daemons' slabs begin with this; `<instance>.` follows."""
INSTANCE_SUFFIX: Final = ".instance"
"""End of the name of the file beside a daemon's socket that holds the daemon's instance."""
_BLOCK_BYTES: Final = 512
"""The unit of `st_blocks`; see stat(2)."""


def others_bytes(mount: str, socket_path: str) -> int:
    """Bytes on the mount that slabs of other instances than this daemon's take.

    Args:
        mount: the folder of the slabs.
        socket_path: this daemon's socket, beside which its instance is noted.
    """
    own = f"{SLAB_PREFIX}{_noted(socket_path)}."
    taken_bytes = 0
    with contextlib.suppress(OSError), os.scandir(mount) as entries:
        for entry in entries:
            if entry.name.startswith(SLAB_PREFIX) and not entry.name.startswith(own):
                with contextlib.suppress(FileNotFoundError):  # the slab was removed since
                    taken_bytes += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
    return taken_bytes


def _noted(socket_path: str) -> str:
    try:
        return Path(socket_path + INSTANCE_SUFFIX).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "none yet"  # no slab has this as its instance
