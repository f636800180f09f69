"""The files of listening sockets are made with their mode, and a daemon removes only its own."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.socket import SUN_PATH_BYTES, descriptor_socket
from streamerd.control.listening import Listening, listen


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def answers(path: str, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


@pytest.mark.usefixtures("any_umask")
@pytest.mark.parametrize("mode", [0o600, 0o660])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_socket_has_its_mode_and_goes_with_its_end(
    socket_path: Path, mode: int, kind: socket.SocketKind
) -> None:
    made = listen(str(socket_path), mode, kind)
    assert stat.S_IMODE(socket_path.stat().st_mode) == mode
    assert answers(str(socket_path), kind)
    assert not os.get_inheritable(made.fileno())
    assert not made.socket.getblocking()
    made.close()
    made.close()
    assert not socket_path.exists()


def test_what_a_killed_daemon_left_is_replaced(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_path))
    assert not answers(str(socket_path), socket.SOCK_STREAM)
    made = listen(str(socket_path), 0o600, socket.SOCK_STREAM)
    assert answers(str(socket_path), socket.SOCK_STREAM)
    made.close()


@pytest.mark.parametrize("what", ["file", "link to a socket", "folder"])
def test_what_is_no_socket_stays_and_is_named(socket_path: Path, what: str) -> None:
    theirs = socket_path.with_name("theirs")
    with socket.socket(socket.AF_UNIX) as other:
        if what == "file":
            socket_path.write_text("kept")
        elif what == "folder":
            socket_path.mkdir()
        else:
            other.bind(str(theirs))
            socket_path.symlink_to(theirs)
        before = socket_path.lstat()
        with pytest.raises(ConfigError, match=rf"{socket_path}: what is there is no socket"):
            listen(str(socket_path), 0o600, socket.SOCK_STREAM)
        assert os.path.samestat(before, socket_path.lstat())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a socket away")
def test_a_socket_of_somebody_else_stays(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(socket_path))
        os.chown(socket_path, 12345, 12345)
        with pytest.raises(ConfigError, match="a socket of user 12345; remove it"):
            listen(str(socket_path), 0o600, socket.SOCK_STREAM)
    assert socket_path.is_socket()


def test_a_path_must_fit(tmp_path: Path) -> None:
    path = str(tmp_path / "s").ljust(SUN_PATH_BYTES + 1, "s")
    with pytest.raises(ConfigError, match="more than the 107 bytes"):
        listen(path, 0o600, socket.SOCK_STREAM)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        listen(str(tmp_path / "no" / "s"), 0o600, socket.SOCK_STREAM)


class Served:
    """A ROUTER on a socket that was made beforehand, as the daemon does it."""

    def __init__(self, path: str) -> None:
        self.listening: Listening = listen(path, 0o600, socket.SOCK_STREAM)
        self.descriptors = listen(descriptor_socket(path), 0o600, socket.SOCK_SEQPACKET)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.setsockopt(zmq.USE_FD, self.listening.duplicate())
        self._router.bind(f"ipc://{path}")

    def echo(self) -> None:
        self._router.rcvtimeo = 5000
        self._router.send_multipart(self._router.recv_multipart())

    def end(self) -> None:
        self._router.close()
        self._context.term()
        self.listening.close()
        self.descriptors.close()


def asked(path: str, served: Served) -> list[bytes]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger, dealer.rcvtimeo = 0, 5000
        dealer.connect(f"ipc://{path}")
        dealer.send(b"hello")
        served.echo()
        return dealer.recv_multipart()


def test_zeromq_serves_on_it_and_leaves_the_file_alone(socket_path: Path) -> None:
    served = Served(str(socket_path))
    assert asked(str(socket_path), served) == [b"hello"]
    served._router.close()
    served._context.term()
    assert socket_path.is_socket()
    served.end()
    assert list(socket_path.parent.iterdir()) == []


def test_the_end_of_the_first_takes_nothing_of_the_second(socket_path: Path) -> None:
    """Before the first daemon ends, its runtime folder is removed and a second daemon started."""
    path = str(socket_path)
    first = Served(path)
    shutil.rmtree(socket_path.parent)
    socket_path.parent.mkdir()
    second = Served(path)
    first.end()
    assert asked(path, second) == [b"hello"]
    assert answers(descriptor_socket(path), socket.SOCK_SEQPACKET)
    second.end()
    assert list(socket_path.parent.iterdir()) == []
