"""Judges whether there is memory for all that the daemon may use.

This module is pure: facts come in, verdicts go out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.sizes import exact_size, format_size
from streamerd.cli.doctor.finding import Finding, State
from streamerd.cli.doctor.place import NODE, Remedies
from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.slabs import PREFIX

SMALL_MOUNT_BYTES: Final = 1 << 30
"""A mount smaller than this holds no model; container engines give 64 MiB unless told otherwise."""
HEADROOM_BYTES: Final = 256 << 20
"""Memory that the daemon's processes need beside slabs, with room to spare."""
PINNED_BYTES: Final = 256 << 20
"""Twice the size of a rank's ring of pinned buffers."""


@dataclass(frozen=True, slots=True)
class MountFacts:
    """The shared-memory mount; sizes in bytes."""

    total_bytes: int
    free_bytes: int
    huge: str
    """The mount's `huge=` option."""
    collapses: bool
    """Whether the kernel makes huge pages of the mount's memory on demand."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The slabs of one daemon instance."""

    instance: str
    files: int
    allocated_bytes: int


def check_room(
    mount: MountFacts | None,
    limit_bytes: int | None,
    used_bytes: int,
    remedies: Remedies = NODE,
) -> Finding:
    """Whether the mount has room for the bytes that the daemon may still take.

    Args:
        mount: the shared-memory mount; None if there is none.
        limit_bytes: the daemon's memory limit; None if no daemon answers.
        used_bytes: the bytes that the daemon's slabs take now.
        remedies: what can be done here.
    """
    if mount is None:
        text = f"{SHM_MOUNT} is not mounted"
        return Finding("room", State.FAILED, text, f"`mount -t tmpfs tmpfs {SHM_MOUNT}`")
    text = (
        f"{format_size(mount.free_bytes)} of {format_size(mount.total_bytes)} free on {SHM_MOUNT}"
    )
    wanted = 0 if limit_bytes is None else limit_bytes - used_bytes
    if mount.free_bytes < wanted:
        size = exact_size(-(-(mount.total_bytes - mount.free_bytes + wanted) // 4096) * 4096)
        return Finding(
            "room",
            State.WARNING,
            f"{text}, but memory_limit allows slabs of {format_size(wanted)} more; loads will wait "
            "when the mount is full",
            f"remove what others keep there (`ls -l {SHM_MOUNT}`), lower memory_limit, or "
            f"{remedies.mount.format(size=size)}",
        )
    if mount.total_bytes < SMALL_MOUNT_BYTES:
        # An engine that leaves no sign of itself looks like a node with a small mount.
        engines = "in a container: --shm-size, or an emptyDir with `medium: Memory`"
        remedy = engines if remedies is NODE else remedies.mount.format(size="SIZE")
        return Finding("room", State.WARNING, f"{text}, too little for a model", remedy)
    return Finding("room", State.OK, text)


def not_seen(check: str) -> Finding:
    """The finding that replaces a check which only the daemon's own container could make."""
    text = f"not looked at: the daemon runs in another container, with a {SHM_MOUNT} of its own"
    return Finding(check, State.NOTE, text, "run `streamerctl doctor` there")


def check_huge_pages(mount: MountFacts, remedies: Remedies = NODE) -> Finding:
    """Whether slabs get huge pages; without them filling and copying takes three times as long."""
    if mount.collapses:
        return Finding("huge pages", State.OK, "the kernel makes them on demand")
    if mount.huge in ("always", "within_size"):
        return Finding("huge pages", State.OK, f"{SHM_MOUNT} is mounted with huge={mount.huge}")
    return Finding(
        "huge pages",
        State.WARNING,
        f"none: {SHM_MOUNT} is mounted with huge={mount.huge}, and the kernel makes none on demand",
        remedies.huge,
    )


def check_cgroup(
    cgroup_bytes: int | None, limit_bytes: int | None, remedies: Remedies = NODE
) -> Finding:
    """Whether the daemon's control group holds its memory limit.

    Args:
        cgroup_bytes: the control group's limit; None for none.
        limit_bytes: the daemon's memory limit; None where no daemon answers.
        remedies: what can be done here.
    """
    if limit_bytes is None:
        return Finding("cgroup", State.NOTE, "not compared: no daemon answers")
    if cgroup_bytes is None:
        return Finding("cgroup", State.OK, "the daemon's control group has no memory limit")
    text = (
        f"the daemon's control group may use {format_size(cgroup_bytes)}, "
        f"memory_limit is {format_size(limit_bytes)}"
    )
    most = max(0, cgroup_bytes - HEADROOM_BYTES) >> 20
    remedy = f"set memory_limit = {most}MiB, or {remedies.group_limit}"
    if limit_bytes >= cgroup_bytes:
        return Finding("cgroup", State.FAILED, f"{text}: the kernel will kill the daemon", remedy)
    if limit_bytes + HEADROOM_BYTES > cgroup_bytes:
        text = f"{text}: little is left for the daemon's own processes"
        return Finding("cgroup", State.WARNING, text, remedy)
    return Finding("cgroup", State.OK, text)


def check_memlock(limit_bytes: int | None, remedies: Remedies = NODE, *, gpu: bool) -> Finding:
    """Whether ranks may pin their buffers; `limit_bytes` is None for no limit."""
    if limit_bytes is None:
        return Finding("memlock", State.OK, "no limit")
    text = f"this user may lock {format_size(limit_bytes)}"
    if not gpu:
        return Finding("memlock", State.OK, f"{text}; without a GPU nothing is locked")
    if limit_bytes < PINNED_BYTES:
        text = f"{text}; a driver may refuse to pin a rank's buffers"
        return Finding("memlock", State.WARNING, text, remedies.lock)
    return Finding("memlock", State.OK, text)


def check_segments(
    found: Sequence[Segments], living: Collection[str], keeping: Collection[str]
) -> list[Finding]:
    """Judge the slabs whose daemon does not run.

    Args:
        found: the slabs on the mount.
        living: instances of daemons whose sockets are open now.
        keeping: instances whose slabs a daemon that is started later would adopt.
    """
    findings = []
    for segments in found:
        files = f"{SHM_MOUNT}/{PREFIX}{segments.instance}.*"
        text = f"{segments.files} slabs, {format_size(segments.allocated_bytes)},"
        if segments.instance in living:
            continue
        if segments.instance in keeping:
            text = f"{text} wait for the next start of their daemon"
            remedy = f"to give the memory back instead: `rm {files}`"
            findings.append(Finding("segments", State.NOTE, text, remedy))
        else:
            # The sockets of daemons in other network namespaces cannot be seen.
            text = f"{text} belong to no daemon of this network namespace ({segments.instance})"
            findings.append(Finding("segments", State.WARNING, text, f"`rm {files}`"))
    return findings or [Finding("segments", State.OK, "no slabs are left over from dead daemons")]
