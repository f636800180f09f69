"""Reading the kernel's reports about mounts and sockets."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from tests.support.unprivileged import as_nobody

from streamerd.cli.doctor.ask_node import (
    ask_keeping,
    ask_living,
    ask_segments,
    ask_socket,
    huge_option,
    living_instances,
)
from streamerd.control.instance import Instance
from streamerd.shm.slabs import create_slab, remove_slab, slab_name


def test_the_huge_option_is_that_of_the_uppermost_mount() -> None:
    mounts = (
        "tmpfs /dev/shm tmpfs rw,nosuid,huge=always,inode64 0 0\n"
        "tmpfs /run tmpfs rw,huge=advise 0 0\n"
    )
    assert huge_option(mounts) == "always"
    assert huge_option(mounts + "tmpfs /dev/shm tmpfs rw,size=64k 0 0\n") == "never"
    assert huge_option("") == "never"


def noted(socket_path: str) -> str:
    with Instance.of(socket_path) as instance:
        return instance.name


def test_instances_of_open_sockets(tmp_path: Path) -> None:
    path, spaced, other = (str(tmp_path / name) for name in ("s", "with a space", "other"))
    lines = [
        f"ffff8: 00000002 00000000 00010000 0001 01 1234 {path}",
        "ffff9: 00000003 00000000 00000000 0001 03 1235",
        "ffffa: 00000002 00000000 00010000 0001 01 1236 @abstract",
        f"ffffb: 00000002 00000000 00010000 0001 01 1237 {spaced}",
        f"ffffc: 00000002 00000000 00010000 0001 01 1238 {other}",
    ]
    assert living_instances(lines) == set()
    expected = {noted(path), noted(spaced)}
    assert living_instances(lines) == expected
    assert ask_keeping(path) >= {noted(path)}


def test_a_socket_is_living_while_it_is_open(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    instance = noted(path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        assert instance in ask_living()
        facts = ask_socket(path)
        assert facts.connect_error is None
        assert facts.in_session  # the socket has the group of this process, which made it
    assert instance not in ask_living()
    assert ask_socket(path).connect_error == errno.ECONNREFUSED
    os.unlink(path)
    assert ask_socket(path).connect_error == errno.ENOENT


def test_slabs_are_told_to_who_could_remove_them() -> None:
    name = slab_name("0123abcd", "", "", 1)
    os.close(create_slab(name, 1))
    try:
        assert "0123abcd" in {segments.instance for segments in ask_segments()}
        if os.getuid() == 0:
            theirs = as_nobody(lambda: [segments.instance for segments in ask_segments()])
            assert "0123abcd" not in theirs
    finally:
        remove_slab(name)
