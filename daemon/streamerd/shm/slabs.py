"""Names and lives of slabs: POSIX shared-memory objects, one a shard.

Runs in the daemon's main process; never touches a slab's pages.
"""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Final

import posix_ipc

from streamer_client.contract.errors import ConfigError, MemoryLimitError, StreamerError
from streamer_client.contract.layout import slab_bytes

MOUNT: Final = "/dev/shm"
"""Where Linux keeps POSIX shared-memory objects; see shm_overview(7)."""
PREFIX: Final = "streamerd."
MODE: Final = 0o640
"""The owner writes, the group's members (vLLM's users) read."""


def slab_name(instance: str, uri: str, identity: str, generation: int) -> str:
    """The object's name for shm_open(3): one content of one shard of one daemon.

    `generation` never repeats, not in the next daemon's life either: a name that was removed does
    not come back while somebody may still have the old object mapped.
    """
    text = f"{uri}\0{identity}\0{generation}"
    digest = hashlib.blake2s(text.encode(), digest_size=12).hexdigest()
    return f"/{PREFIX}{instance}.{digest}"


def create_slab(name: str, size_bytes: int) -> None:
    """Make an object of the shard's size with no memory behind it, replacing a stale one.

    Raises:
        MemoryLimitError: the system has no room for another object.
        ConfigError: no permission, or there is no shared-memory mount.
    """
    remove_slab(name)
    try:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=MODE, size=0)
        try:
            os.fchmod(memory.fd, MODE)
            os.ftruncate(memory.fd, slab_bytes(size_bytes))
        finally:
            memory.close_fd()
    except posix_ipc.PermissionsError as error:
        raise ConfigError(
            f"no permission to create {MOUNT}{name}; let this user write to {MOUNT}"
        ) from error
    except OSError as error:
        raise _creation_error(name, size_bytes, error) from error


def _creation_error(name: str, size_bytes: int, error: OSError) -> StreamerError:
    if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
        return MemoryLimitError(
            f"cannot create {MOUNT}{name} of {size_bytes} bytes: {error.strerror}; free memory on "
            f"{MOUNT} or enlarge it"
        )
    return ConfigError(f"cannot create {MOUNT}{name}: {error.strerror}; is {MOUNT} mounted?")


def remove_slab(name: str) -> None:
    """Unlink an object; mappings of it live on. Nothing happens when it is gone already."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return


def instance_slabs(instance: str) -> list[str]:
    """Names of all slabs of one daemon instance that exist now."""
    start = f"{PREFIX}{instance}."
    return sorted(f"/{entry}" for entry in os.listdir(MOUNT) if entry.startswith(start))


def inode_of(name: str) -> int:
    """What tells an object from another of its name.

    Raises:
        OSError: there is none.
    """
    return os.stat(MOUNT + name).st_ino


def allocated_bytes(name: str) -> int:
    """Memory behind an object, as the kernel counts it."""
    return os.stat(MOUNT + name).st_blocks * 512


def mount_bytes() -> tuple[int, int]:
    """Size of the shared-memory mount and what is free of it, in bytes.

    Raises:
        ConfigError: there is no such mount.
    """
    try:
        stats = os.statvfs(MOUNT)
    except OSError as error:
        raise ConfigError(f"cannot use {MOUNT}: {error.strerror}; mount a tmpfs there") from error
    return stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize
