"""The kinds of place where the doctor may run, and what can be done at each.

A place is a node, a container or a pod of Kubernetes. This module owns the remedies that differ,
since nobody can call systemctl in a container or remount its /dev/shm. It is pure: `ask_place.py`
finds out which kind of place it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from streamer_client.contract.socket import SYSTEM_SOCKET
from streamerd.memory.room import SHM_MOUNT

FOLDER: Final = SYSTEM_SOCKET.rpartition("/")[0]
"""The folder that a container shares with the daemon."""


class Place(StrEnum):
    """The kind of machine that a process runs on, as it appears from inside."""

    NODE = "node"
    """A machine, or a container that systemd runs like one."""
    CONTAINER = "container"
    POD = "pod"


class Remedies(NamedTuple):
    """The remedies at one kind of place. The checks fill in the words in braces."""

    what: str
    """The name of the place itself."""
    start: str
    restart: str
    look: str
    """Where to look for the daemon's log."""
    share: str
    """Remedy if the socket's folder does not exist."""
    join: str
    """Remedy if this user is not in the socket's group; has `{group}`, its `{gid}`, and
    `{user}`."""
    mount: str
    """Remedy if the mount of shared memory is too small; has the needed `{size}`."""
    huge: str
    group_limit: str
    """Remedy if the control group's limit is too low."""
    lock: str
    """Remedy if a process may not lock enough memory."""


_ON_NODE: Final = "`systemctl start streamerd`"
_PODS: Final = "`kubectl get pods --all-namespaces -o wide -l app.kubernetes.io/name=streamerd`"

REMEDIES: Final[Mapping[Place, Remedies]] = {
    Place.NODE: Remedies(
        what="systemd does not run this machine",
        start=_ON_NODE,
        restart="`systemctl restart streamerd`",
        look="see the daemon's log",
        share=_ON_NODE,
        join="`sudo usermod -aG {group} {user}`, then log in again",
        mount=f"`mount -o remount,size={{size}} {SHM_MOUNT}`",
        huge=f"`mount -o remount,huge=within_size {SHM_MOUNT}`, or Linux 6.1",
        group_limit="raise MemoryMax (`systemctl edit streamerd`)",
        lock="`ulimit -l unlimited`, LimitMEMLOCK=infinity",
    ),
    Place.CONTAINER: Remedies(
        what="this is a container; the daemon runs on the node, or in a container of its own",
        start=f"start the daemon's container, or on the node {_ON_NODE}",
        restart="restart the daemon's container, or on the node `systemctl restart streamerd`",
        look="see the log of the daemon's container, or on the node `journalctl -u streamerd`",
        share=f"start this container with `-v {FOLDER}:{FOLDER}`, and the daemon on the node",
        join="start this container with `--group-add {gid}`",
        mount="start the daemon's container with `--shm-size={size}`",
        huge="Linux 6.1 on the node",
        group_limit="start the daemon's container with a higher `--memory`",
        lock="start this container with `--ulimit memlock=-1`",
    ),
    Place.POD: Remedies(
        what="this is a pod; the daemon runs in a pod of its own on each node, or on the node",
        start=f"see whether the daemon's pod runs on this node: {_PODS}",
        restart="delete the daemon's pod of this node, which its DaemonSet makes anew",
        look="see `kubectl logs` of the daemon's pod of this node",
        share=f"mount {FOLDER} of the node as a `hostPath` volume, and see that a daemon is there",
        join="add {gid} to `supplementalGroups` in the pod's `securityContext`",
        mount=f"raise `sizeLimit` of the daemon's `emptyDir` at {SHM_MOUNT} to {{size}}",
        huge="Linux 6.1 on the node",
        group_limit="raise the daemon's `resources.limits.memory`",
        lock="LimitMEMLOCK=infinity for the node's container runtime",
    ),
}
NODE: Final = REMEDIES[Place.NODE]
