"""Creates, opens, identifies and removes slabs: POSIX shared-memory objects, one for each shard.

A slab belongs to the daemon's user alone. A client that may read a slab gets a descriptor, and
never needs the name. The daemon also has a descriptor of each slab, so that it does no harm if
another program unlinks the name. This module owns the names of slabs. It runs in the daemon's main
process, and never touches a slab's pages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import signal
import stat
from typing import Final

from streamer_client.contract.errors import ConfigError, MemoryLimitError, StreamerError
from streamer_client.contract.layout import slab_bytes
from streamerd.memory.others import SLAB_PREFIX
from streamerd.memory.room import SHM_MOUNT

logger = logging.getLogger(__name__)

READONLY_MOUNT: Final = "/run/streamerd-shm"
"""The path at which the systemd unit mounts shared memory a second time, read-only."""
PREFIX: Final = SLAB_PREFIX
MODE: Final = 0o600

_F_SETSIG: Final = 10
"""F_SETSIG of fcntl(2) on Linux; Python's fcntl module has no name for it."""
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC


def slab_name(instance: str, uri: str, identity: str, generation: int) -> str:
    """The object's name for shm_open(3): one content of one shard of one daemon.

    `generation` never repeats, not even in a later daemon of this instance. A removed name must not
    be used again while another process may still have the old object mapped.
    """
    text = f"{uri}\0{identity}\0{generation}"
    digest = hashlib.blake2s(text.encode(), digest_size=12).hexdigest()
    return f"/{PREFIX}{instance}.{digest}"


def create_slab(name: str, size_bytes: int) -> int:
    """Make an object of the shard's size with no memory behind it.

    Returns:
        A descriptor that reads and writes; the caller closes it.

    Raises:
        MemoryLimitError: the system has no room for another object.
        ConfigError: no permission, the name is taken, or there is no shared-memory mount.
    """
    try:
        fd = os.open(SHM_MOUNT + name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, MODE)
    except PermissionError as error:
        raise ConfigError(
            f"no permission to create {SHM_MOUNT}{name}; let this user write to {SHM_MOUNT}"
        ) from error
    except OSError as error:
        raise _creation_error(name, size_bytes, error) from error
    try:
        os.fchmod(fd, MODE)
        os.ftruncate(fd, slab_bytes(size_bytes))
    except OSError as error:
        remove_slab(name, os.fstat(fd).st_ino)
        os.close(fd)
        raise _creation_error(name, size_bytes, error) from error
    return fd


def _creation_error(name: str, size_bytes: int, error: OSError) -> StreamerError:
    if error.errno == errno.EFBIG:
        return MemoryLimitError(
            f"cannot create {SHM_MOUNT}{name} of {size_bytes} bytes: the daemon may not make files "
            "of this size; raise its limit (LimitFSIZE, `ulimit -f`)"
        )
    if error.errno in (errno.ENOSPC, errno.ENOMEM):
        return MemoryLimitError(
            f"cannot create {SHM_MOUNT}{name} of {size_bytes} bytes: {error.strerror}; "
            f"free memory on {SHM_MOUNT} or enlarge it"
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return MemoryLimitError(
            f"cannot create {SHM_MOUNT}{name}: too many files are open; raise the daemon's limit "
            "(LimitNOFILE, `ulimit -n`), or load checkpoints of fewer files at once"
        )
    if error.errno == errno.EEXIST:
        return ConfigError(f"{SHM_MOUNT}{name} exists already and is not this daemon's; remove it")
    return ConfigError(
        f"cannot create {SHM_MOUNT}{name}: {error.strerror}; is {SHM_MOUNT} mounted?"
    )


def open_slab(name: str, inode: int) -> int:
    """Open an object of this user for reading and writing; the caller closes the descriptor.

    Raises:
        OSError: there is no such object, or another one has its name (ESTALE).
    """
    fd = os.open(SHM_MOUNT + name, os.O_RDWR | os.O_NONBLOCK | _OPEN)
    found = os.fstat(fd)
    if _is_ours(found) and found.st_ino == inode:
        return fd
    os.close(fd)
    raise OSError(errno.ESTALE, "another object has that name", SHM_MOUNT + name)


def readonly_mount(configured: str = "") -> str | None:
    """A read-only mount of shared memory; None if there is none.

    Args:
        configured: the setting `readonly_shm`; if it is empty, the systemd unit's mount is tried.

    Raises:
        ConfigError: the configured path is not such a mount.
    """
    path = configured or READONLY_MOUNT
    wrong = _no_readonly_mount(path)
    if not wrong:
        return path
    if configured:
        raise ConfigError(
            f"readonly_shm: {path} {wrong}; bind {SHM_MOUNT} there read-only, or "
            "leave readonly_shm out"
        )
    logger.info(
        "event=no_readonly_mount path=%s reason=%r effect=%r", path, wrong,
        "clients that are root or of this user could write to slabs that they are handed",
    )  # fmt: skip
    return None


def _no_readonly_mount(path: str) -> str:
    try:
        flags, device = os.statvfs(path).f_flag, os.stat(path).st_dev
        if device != os.stat(SHM_MOUNT).st_dev:
            return f"is not a second mount of {SHM_MOUNT}"
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return "" if flags & os.ST_RDONLY else "can be written to"


def open_readonly(fd: int, name: str, mount: str | None = None) -> int:
    """A descriptor for a client that only reads a slab; the caller closes it.

    If the descriptor was opened through a read-only mount, not even root can open it again for
    writing. Without such a mount, or if the slab has no name any more, root and this user can do so
    through /proc/self/fd.

    Args:
        fd: the slab's descriptor, as `create_slab` returned it.
        name: the slab's name.
        mount: the mount, as `readonly_mount` returned it.

    Raises:
        OSError: the slab cannot be opened.
    """
    if mount is not None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            through = os.open(mount + name, os.O_RDONLY | os.O_NONBLOCK | _OPEN)
            if os.path.samestat(os.fstat(through), os.fstat(fd)):
                return through
            os.close(through)
        logger.warning("event=slab_opened_without_readonly_mount name=%s mount=%s", name, mount)
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def is_open_elsewhere(fd: int) -> bool:
    """Whether another process has the file open or mapped; a mapping counts as open.

    The kernel grants a write lease only on a file that nobody else has open: F_SETLEASE of
    fcntl(2).
    """
    with contextlib.suppress(OSError):
        # If another process opens the file just now, the kernel sends SIGURG, which does nothing.
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    return True


def remove_slab(name: str, inode: int | None = None) -> bool:
    """Unlink an object of this user; returns whether it existed. Mappings of it stay valid.

    Args:
        name: the object's name.
        inode: the object's inode, so that another object of that name is not removed; None for any
            object.
    """
    try:
        found = os.stat(SHM_MOUNT + name, follow_symlinks=False)
        if not _is_ours(found) or inode not in (None, found.st_ino):
            return False
        os.unlink(SHM_MOUNT + name)
    except FileNotFoundError:
        return False
    return True


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def is_slab_name(name: str) -> bool:
    """Whether a text could be a slab's name, of any instance. Pure."""
    return name.startswith(f"/{PREFIX}") and "/" not in name[1:]


def instance_slabs(instance: str) -> list[str]:
    """Names of all slabs of one daemon instance that exist now."""
    start = f"{PREFIX}{instance}."
    return sorted(f"/{entry}" for entry in os.listdir(SHM_MOUNT) if entry.startswith(start))


def inode_of(name: str) -> int:
    """The inode of an object, which differs from that of a later object with the same name.

    Raises:
        OSError: there is no such object.
    """
    return os.stat(SHM_MOUNT + name, follow_symlinks=False).st_ino


def allocated_bytes(name: str) -> int:
    """Bytes of memory that an object takes, as the kernel counts them."""
    return os.stat(SHM_MOUNT + name, follow_symlinks=False).st_blocks * 512


def mount_bytes() -> tuple[int, int]:
    """The size of the shared-memory mount and its free space, both in bytes.

    Raises:
        ConfigError: there is no such mount.
    """
    try:
        stats = os.statvfs(SHM_MOUNT)
    except OSError as error:
        raise ConfigError(
            f"cannot use {SHM_MOUNT}: {error.strerror}; mount a tmpfs there"
        ) from error
    return stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize
