"""Taking over the slabs that an earlier daemon of this instance left.

Owns which of them are worth it, what must be true of an object before it is believed to be the
slab that its sidecar tells of, and removing all the rest. Looks at slabs and sidecars alone, never
at a source: what a client once named, only a client may show again. Runs once, before the daemon
serves.

A slab gets a new name first, and only then is asked who else has it open. Whoever opened it under
the old name shows in the answer; whoever comes later does not find it. So a slab of which it is
said that nobody has it is no different from one of our own making.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from streamer_client.contract.layout import block_count, blocks_bytes, slab_bytes
from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.sidecars import Sidecar, SidecarFolder
from streamerd.shm.slab_file import punch_hole
from streamerd.shm.slabs import (
    instance_slabs,
    is_open_elsewhere,
    is_slab_name,
    open_slab,
    remove_slab,
)

logger = logging.getLogger(__name__)

Run = tuple[int, int]


class Inherited(NamedTuple):
    """A slab that was taken over, under its new name."""

    sidecar: Sidecar
    resident: tuple[Run, ...]
    """Its blocks as half-open ranges."""
    proven: bool
    """Whether the blocks are known to be there as they were read."""
    in_use: bool
    """Somebody else has it open, or it cannot be told."""
    fd: int
    """Reads and writes it; whoever gets this closes it."""


def inherit(
    folder: SidecarFolder,
    instance: str,
    limit_bytes: int,
    block_bytes: int,
    new_name: Callable[[Sidecar], str],
) -> list[Inherited]:
    """Take over what fits and is sound; remove everything else of this instance.

    Args:
        folder: where the sidecars are.
        instance: whose slabs; no other name is touched.
        limit_bytes: most shared memory to take over.
        block_bytes: slabs of other blocks are of no use.
        new_name: makes a name that was never used.
    """
    ended_well = folder.take_mark()
    for name, inode in folder.take_outdated():
        _remove_left(name, inode)
    noted = folder.read_all()
    known = [one for one in noted if _is_sound(one) and one.block_bytes == block_bytes]
    inherited = [
        taken
        for sidecar in choose(known, limit_bytes)
        if (taken := _take_over(sidecar, new_name(sidecar), ended_well=ended_well))
    ]
    kept = {taken.sidecar.slab for taken in inherited}
    for name in instance_slabs(instance):
        if name not in kept:
            logger.info("stale slab removed name=%s", name)
            remove_slab(name)
    for sidecar in noted:
        # Also of an instance before this one, should its note have been lost.
        _remove_left(sidecar.slab, sidecar.inode)
        folder.remove(sidecar.slab)
    for taken in inherited:
        folder.write(taken.sidecar)
    return inherited


def _remove_left(name: str, inode: int) -> None:
    if is_slab_name(name) and remove_slab(name, inode):
        logger.info("stale slab removed name=%s", name)


def choose(known: Iterable[Sidecar], limit_bytes: int) -> list[Sidecar]:
    """Those that fit the limit together: what is pinned first, then what was used last. Pure.

    One of each content: a daemon that was killed while it replaced a slab has left both.
    """
    chosen: dict[tuple[str, int], Sidecar] = {}
    left_bytes = limit_bytes
    for sidecar in sorted(known, key=lambda one: (not one.pinned, -one.last_used_s)):
        key = sidecar.identity, sidecar.edition
        size_bytes = _resident_bytes(sidecar)
        if key not in chosen and 0 < size_bytes <= left_bytes:
            chosen[key] = sidecar
            left_bytes -= size_bytes
    return list(chosen.values())


def _is_sound(sidecar: Sidecar) -> bool:
    blocks = block_count(sidecar.size_bytes, max(1, sidecar.block_bytes))
    return (
        is_slab_name(sidecar.slab)
        and len(sidecar.resident) == blocks
        and len(sidecar.checksums) == 8 * blocks
    )


def _resident_bytes(sidecar: Sidecar) -> int:
    return sum(
        blocks_bytes(start, stop, sidecar.size_bytes, sidecar.block_bytes)
        for start, stop in _runs(sidecar.resident, 1)
    )


def _take_over(sidecar: Sidecar, name: str, *, ended_well: bool) -> Inherited | None:
    try:
        fd = open_slab(sidecar.slab, sidecar.inode)
    except OSError as error:
        logger.info("slab not adopted uri=%s reason=%s", sidecar.uri, error.strerror)
        return None
    try:
        taken = _checked(sidecar, name, fd, ended_well=ended_well)
    except OSError as error:
        logger.warning("slab not adopted uri=%s reason=%s", sidecar.uri, error.strerror)
        taken = None
    if taken is None:
        os.close(fd)
    return taken


def _checked(sidecar: Sidecar, name: str, fd: int, *, ended_well: bool) -> Inherited | None:
    if os.fstat(fd).st_size != slab_bytes(sidecar.size_bytes):
        logger.warning("slab not adopted uri=%s reason=another size", sidecar.uri)
        return None
    os.rename(SHM_MOUNT + sidecar.slab, SHM_MOUNT + name)
    in_use = is_open_elsewhere(fd)
    missing = list(_runs(sidecar.resident, 0))
    if missing and in_use and not ended_well:
        logger.info("slab not adopted uri=%s reason=partly filled and in use", sidecar.uri)
        return None
    for start, stop in missing:
        at, size = start * sidecar.block_bytes, sidecar.size_bytes
        punch_hole(fd, at, at + blocks_bytes(start, stop, size, sidecar.block_bytes))
    # A block cannot be there without memory behind it.
    backed = os.fstat(fd).st_blocks * 512 >= _resident_bytes(sidecar)
    resident = tuple(_runs(sidecar.resident, 1))
    renamed = msgspec.structs.replace(sidecar, slab=name)
    return Inherited(renamed, resident, ended_well and backed, in_use, fd)


def _runs(flags: bytes, flag: int) -> Iterator[Run]:
    """Runs of `flag` as half-open ranges."""
    start = flags.find(flag)
    while start >= 0:
        stop = flags.find(1 - flag, start)
        stop = len(flags) if stop < 0 else stop
        yield start, stop
        start = flags.find(flag, stop)
