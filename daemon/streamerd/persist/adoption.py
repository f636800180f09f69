"""Adopts the slabs that an earlier daemon of this instance left.

This module decides which slabs are adopted, checks that an object is the slab that its sidecar
describes, and removes all other slabs. It looks only at slabs and sidecars, never at a source,
because only a client may open a path that a client named. It runs once, in a thread, before the
daemon serves.

A slab is renamed first; only then is the kernel asked whether another process has it open. The
answer includes every process that opened it under the old name, and no process can find the new
name. So a slab that nobody else has open is as safe to fill and punch as one that this daemon made.
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

BlockRun = tuple[int, int]
"""Numbers of neighbouring blocks as a half-open range."""


class AdoptedSlab(NamedTuple):
    """A slab that was adopted, under its new name."""

    sidecar: Sidecar
    resident: tuple[BlockRun, ...]
    """The blocks that are resident according to the sidecar."""
    proven: bool
    """Whether these blocks are known to hold what was read; else their checksums are compared."""
    in_use: bool
    """Whether another process has the slab open, or may have."""
    fd: int
    """Descriptor of the slab, open for reading and writing; the receiver closes it."""


def adopt_slabs(
    folder: SidecarFolder,
    instance: str,
    limit_bytes: int,
    block_bytes: int,
    new_name: Callable[[Sidecar], str],
) -> list[AdoptedSlab]:
    """Adopt the slabs that are sound and fit the limit; remove all others of this instance.

    Args:
        folder: where the sidecars are.
        instance: the instance to adopt slabs of; slabs of other instances are not touched.
        limit_bytes: how much shared memory may be adopted.
        block_bytes: size of a block; slabs with blocks of another size are removed.
        new_name: makes a name that no slab has had.
    """
    ended_well = folder.take_mark()
    for name, inode in folder.take_outdated():
        _remove_left(name, inode)
    noted = folder.read_all()
    known = [one for one in noted if _is_sound(one) and one.block_bytes == block_bytes]
    adopted = [
        slab
        for sidecar in choose(known, limit_bytes)
        if (slab := _adopt(sidecar, new_name(sidecar), ended_well=ended_well))
    ]
    names = {slab.sidecar.slab for slab in adopted}
    for name in instance_slabs(instance):
        if name not in names:
            logger.info("event=stale_slab_removed name=%s", name)
            remove_slab(name)
    for sidecar in noted:
        # A sidecar may name slabs of an earlier instance, if the file with the instance was lost.
        _remove_left(sidecar.slab, sidecar.inode)
        folder.remove(sidecar.slab)
    for slab in adopted:
        folder.write(slab.sidecar)
    return adopted


def _remove_left(name: str, inode: int) -> None:
    if is_slab_name(name) and remove_slab(name, inode):
        logger.info("event=stale_slab_removed name=%s", name)


def choose(known: Iterable[Sidecar], limit_bytes: int) -> list[Sidecar]:
    """The sidecars whose slabs together fit the limit: pinned first, then the last used. Pure.

    At most one sidecar of each content is chosen, because a daemon that was killed while it
    replaced a slab has left two.
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


def _adopt(sidecar: Sidecar, name: str, *, ended_well: bool) -> AdoptedSlab | None:
    try:
        fd = open_slab(sidecar.slab, sidecar.inode)
    except OSError as error:
        logger.info("event=slab_not_adopted uri=%s reason=%r", sidecar.uri, error.strerror)
        return None
    try:
        adopted = _checked(sidecar, name, fd, ended_well=ended_well)
    except OSError as error:
        logger.warning("event=slab_not_adopted uri=%s reason=%r", sidecar.uri, error.strerror)
        adopted = None
    if adopted is None:
        os.close(fd)
    return adopted


def _checked(sidecar: Sidecar, name: str, fd: int, *, ended_well: bool) -> AdoptedSlab | None:
    if os.fstat(fd).st_size != slab_bytes(sidecar.size_bytes):
        logger.warning("event=slab_not_adopted uri=%s reason=%r", sidecar.uri, "another size")
        return None
    os.rename(SHM_MOUNT + sidecar.slab, SHM_MOUNT + name)
    in_use = is_open_elsewhere(fd)
    missing = list(_runs(sidecar.resident, 0))
    if missing and in_use and not ended_well:
        reason = "partly filled and in use"
        logger.info("event=slab_not_adopted uri=%s reason=%r", sidecar.uri, reason)
        return None
    for start, stop in missing:
        at, size = start * sidecar.block_bytes, sidecar.size_bytes
        punch_hole(fd, at, at + blocks_bytes(start, stop, size, sidecar.block_bytes))
    # A slab with less memory than its claimed blocks need cannot hold all of them.
    backed = os.fstat(fd).st_blocks * 512 >= _resident_bytes(sidecar)
    resident = tuple(_runs(sidecar.resident, 1))
    renamed = msgspec.structs.replace(sidecar, slab=name)
    return AdoptedSlab(renamed, resident, ended_well and backed, in_use, fd)


def _runs(flags: bytes, flag: int) -> Iterator[BlockRun]:
    """Runs of `flag` as half-open ranges."""
    start = flags.find(flag)
    while start >= 0:
        stop = flags.find(1 - flag, start)
        stop = len(flags) if stop < 0 else stop
        yield start, stop
        start = flags.find(flag, stop)
