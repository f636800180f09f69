"""Reading what the kernel tells of mounts and sockets."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from streamer_client.contract.socket import instance_of
from streamerd.cli.doctor.ask_node import ask_living, ask_socket, huge_option, living_instances


def test_the_huge_option_is_that_of_the_uppermost_mount() -> None:
    mounts = (
        "tmpfs /dev/shm tmpfs rw,nosuid,huge=always,inode64 0 0\n"
        "tmpfs /run tmpfs rw,huge=advise 0 0\n"
    )
    assert huge_option(mounts) == "always"
    assert huge_option(mounts + "tmpfs /dev/shm tmpfs rw,size=64k 0 0\n") == "never"
    assert huge_option("") == "never"


def test_instances_of_open_sockets() -> None:
    lines = [
        "ffff8: 00000002 00000000 00010000 0001 01 1234 /run/streamerd/control.sock",
        "ffff9: 00000003 00000000 00000000 0001 03 1235",
        "ffffa: 00000002 00000000 00010000 0001 01 1236 @abstract",
        "ffffb: 00000002 00000000 00010000 0001 01 1237 /with a space",
    ]
    expected = {instance_of("/run/streamerd/control.sock"), instance_of("/with a space")}
    assert living_instances(lines) == expected


def test_a_socket_is_living_while_it_is_open(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        assert instance_of(path) in ask_living()
        facts = ask_socket(path)
        assert facts.connect_error is None
        assert facts.in_session  # a file one made is of one's own group
    assert instance_of(path) not in ask_living()
    assert ask_socket(path).connect_error == errno.ECONNREFUSED
    os.unlink(path)
    assert ask_socket(path).connect_error == errno.ENOENT
