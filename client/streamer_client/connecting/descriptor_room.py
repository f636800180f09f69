"""Opening many files at once, within what this process may have open.

A checkpoint of some hundred shards needs more descriptors than the usual soft limit of 1,024
leaves: one or two for each file, and one for each slab. The limit is raised only when it is in the
way, and only as far as needed, as programs that use select(2) fail with descriptors past 1,023.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Sequence
from typing import Final

from streamer_client.storage.local_files import LocalFile, open_local

logger = logging.getLogger(__name__)

DESCRIPTORS_A_SHARD: Final = 3
"""Its file, opened twice, and its slab."""
SPARE: Final = 64
"""Descriptors that stay free for everything else in this process."""


def open_files(
    source: str, pattern: str | None, files: Sequence[str] | None
) -> tuple[LocalFile, ...]:
    """Open a local source for the daemon; raises as `open_local`, and makes room where it can.

    Where there is no room for all, files are opened once each: reading past the page cache is worth
    less than reading.
    """
    return open_local(source, pattern, files, room_for=_room_for)


def _room_for(shards: int) -> bool:
    """Whether the files of so many shards can be opened twice each, and their slabs once."""
    make_room(DESCRIPTORS_A_SHARD * shards)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _taken() + DESCRIPTORS_A_SHARD * shards <= soft


def make_room(count: int) -> bool:
    """Raise the limit where `count` more descriptors need that; whether it was raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(hard, _taken() + count)
    if needed <= soft:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        logger.debug("event=limit_not_raised limit=%d reason=%s", needed, error)
        return False
    logger.debug("event=descriptor_limit_raised from=%d to=%d", soft, needed)
    return True


def _taken() -> int:
    """How many descriptors are open, and those that stay free for other things."""
    return len(os.listdir("/proc/self/fd")) + SPARE
