"""Tells how much of the shared-memory mount other daemons have taken already.

Owns how slabs are named, as far as that tells whose they are, and the sum of those that are not
this daemon's. Asked in the main process, when the default of `memory_limit` is made; only looks.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

SLAB_PREFIX: Final = "streamerd."
"""The names of all daemons' slabs begin with this; `<instance>.` follows."""
INSTANCE_SUFFIX: Final = ".instance"
"""How the name ends of the file beside a daemon's socket in which its instance is noted."""
_BLOCK_BYTES: Final = 512
"""The unit of `st_blocks`; see stat(2)."""


def others_bytes(mount: str, socket_path: str) -> int:
    """Bytes on the mount behind slabs of daemons that have another instance than this one's.

    Args:
        mount: where slabs lie.
        socket_path: this daemon's socket; slabs of the instance noted beside it are its own.
    """
    own = f"{SLAB_PREFIX}{_noted(socket_path)}."
    taken_bytes = 0
    with contextlib.suppress(OSError), os.scandir(mount) as entries:
        for entry in entries:
            if entry.name.startswith(SLAB_PREFIX) and not entry.name.startswith(own):
                with contextlib.suppress(FileNotFoundError):  # removed since
                    taken_bytes += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
    return taken_bytes


def _noted(socket_path: str) -> str:
    try:
        return Path(socket_path + INSTANCE_SUFFIX).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "none yet"  # no slab is called so
