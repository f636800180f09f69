"""In a container the doctor names remedies that are possible there, and judges only what it can
see.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from streamerd.cli.doctor.ask_place import ask_place
from streamerd.cli.doctor.daemon import (
    ServiceFacts,
    SocketFacts,
    check_daemon,
    check_service,
    check_socket,
)
from streamerd.cli.doctor.environment import KernelFacts, check_kernel
from streamerd.cli.doctor.finding import State
from streamerd.cli.doctor.memory import (
    MountFacts,
    check_cgroup,
    check_huge_pages,
    check_memlock,
    check_room,
)
from streamerd.cli.doctor.place import REMEDIES, Place

PATH = "/run/streamerd/control.sock"
INSIDE = [REMEDIES[Place.CONTAINER], REMEDIES[Place.POD]]
CONTAINER, POD = INSIDE


@pytest.mark.parametrize(
    ("left", "environ", "place"),
    [
        ("", {}, Place.NODE),
        (".dockerenv", {}, Place.CONTAINER),
        ("run/.containerenv", {}, Place.CONTAINER),
        ("", {"container": "podman"}, Place.CONTAINER),
        (".dockerenv", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Place.POD),
        ("", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Place.POD),
        # A container that systemd runs is administered like a node.
        ("run/systemd/system/unit", {"container": "systemd-nspawn"}, Place.NODE),
    ],
)
def test_where_it_is(tmp_path: Path, left: str, environ: dict[str, str], place: Place) -> None:
    if left:
        (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / left).touch()
    assert ask_place(environ, str(tmp_path)) is place


def test_inside_no_remedy_is_one_of_a_node() -> None:
    """The remedies name no bare systemctl, no usermod, and no remount."""
    mount = MountFacts(8 << 30, 1 << 30, "never", collapses=False)
    for remedies in INSIDE:
        found = [
            check_service(ServiceFacts(), remedies, answers=False),
            *(
                check_socket(SocketFacts(PATH, "7", error, gid=53000), remedies)
                for error in (errno.ENOENT, errno.ECONNREFUSED, errno.EACCES, errno.ENOTSOCK)
            ),
            check_daemon("has not answered", "1.0", remedies),
            check_room(mount, 4 << 30, 0, remedies),
            check_room(MountFacts(64 << 20, 64 << 20, "never", collapses=True), None, 0, remedies),
            check_huge_pages(mount, remedies),
            check_cgroup(1 << 30, 2 << 30, remedies),
            check_memlock(8 << 20, remedies, gpu=True),
        ]
        for finding in found:
            assert "usermod" not in finding.remedy
            assert "remount" not in finding.remedy
            assert not finding.remedy.startswith("`systemctl")
            assert "{" not in finding.remedy
            assert finding.state is State.NOTE or finding.remedy


def test_a_folder_that_is_not_shared_is_told_from_a_daemon_that_is_not_there() -> None:
    missing = SocketFacts(PATH, "7", errno.ENOENT, folder=False)
    assert "-v /run/streamerd:/run/streamerd" in check_socket(missing, CONTAINER).remedy
    assert "hostPath" in check_socket(missing, POD).remedy
    empty = SocketFacts(PATH, "7", errno.ENOENT, folder=True)
    assert "start the daemon's container" in check_socket(empty, CONTAINER).remedy
    assert "kubectl get pods" in check_socket(empty, POD).remedy


def test_a_group_is_named_by_its_number() -> None:
    """A container has no entry for a group of the node."""
    refused = SocketFacts(PATH, "7", errno.EACCES, gid=53000)
    assert "--group-add 53000" in check_socket(refused, CONTAINER).remedy
    assert "add 53000 to `supplementalGroups`" in check_socket(refused, POD).remedy


def test_room_is_asked_of_whoever_starts_the_container() -> None:
    mount = MountFacts(8 << 30, 1 << 30, "never", collapses=True)
    assert "--shm-size=11GiB" in check_room(mount, 4 << 30, 0, CONTAINER).remedy
    assert "`sizeLimit`" in check_room(mount, 4 << 30, 0, POD).remedy
    assert "resources.limits.memory" in check_cgroup(1 << 30, 2 << 30, POD).remedy


def test_a_new_kernel_lacks_what_a_filter_forbids() -> None:
    finding = check_kernel(KernelFacts("6.18.1", collapse=True, cachestat=False, pidfd=True))
    assert finding.state is State.NOTE
    assert "seccomp" in finding.remedy
