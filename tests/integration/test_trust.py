"""Whom a client trusts: the folders above a socket, the user who listens there, the next place."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.connecting.packet_socket import peer_of
from streamer_client.connecting.trust import (
    SocketPlace,
    _sees_all_users,
    check_peer,
    check_socket_place,
    find_socket,
    is_named,
)
from streamer_client.contract.errors import ConfigError, UntrustedSocket
from streamer_client.contract.socket import SYSTEM_SOCKET
from tests.support.unprivileged import NOBODY, as_user

STRANGER, ME = 61_235, 61_234
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below /tmp that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="strd-") as directory:
        folder = Path(directory)
        folder.chmod(0o755)
        yield folder


def made(path: Path, mode: int = 0o755, uid: int | None = None) -> Path:
    path.mkdir()
    path.chmod(mode)
    if uid is not None:
        os.chown(path, uid, uid)
    return path


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made_socket:
        made_socket.bind(str(path))
        made_socket.listen()
        yield made_socket


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_of_our_own_below_a_sticky_one_is_fine(open_folder: Path) -> None:
    check_socket_place(str(open_folder / "s"), named=False)
    check_socket_place(str(open_folder / "not" / "there" / "s"), named=False)
    check_socket_place(str(open_folder / "s" / ".." / "s"), named=False)


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o775, "group")])
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_that_others_may_write_to_is_refused(
    open_folder: Path, mode: int, who: str, named: bool
) -> None:
    wide = made(open_folder / "wide", mode)
    inner = made(wide / "inner", 0o700)
    with pytest.raises(UntrustedSocket, match=who) as refused:
        check_socket_place(str(inner / "s"), named=named)
    assert f"write to the folder {wide} " in str(refused.value)
    assert f"chmod go-w {wide}" in str(refused.value)
    wide.chmod(0o1777)
    check_socket_place(str(inner / "s"), named=named)


@needs_root
def test_a_strangers_folder_is_refused(open_folder: Path) -> None:
    theirs = made(open_folder / "theirs", uid=STRANGER)
    inner = made(theirs / "inner")
    for path, named in ((inner, True), (inner, False), (theirs, False)):
        with pytest.raises(UntrustedSocket, match=f"{theirs} belongs to user {STRANGER}"):
            check_socket_place(str(path / "s"), named=named)


@needs_root
def test_the_services_user_counts_where_the_socket_was_named(open_folder: Path) -> None:
    service = made(open_folder / "service", uid=STRANGER)
    check_socket_place(str(service / "s"), named=True)
    inner = made(service / "inner", uid=STRANGER)
    check_socket_place(str(inner / "s"), named=True)
    service.chmod(0o777)
    with pytest.raises(UntrustedSocket, match="everybody may write"):
        check_socket_place(str(inner / "s"), named=True)


@needs_root
def test_a_strangers_link_is_not_followed_even_when_named(open_folder: Path) -> None:
    sticky = made(open_folder / "sticky", 0o1777)
    good = made(open_folder / "good", 0o700)
    link = sticky / "link"
    link.symlink_to(good)
    check_socket_place(str(link / "s"), named=False)
    os.lchown(link, STRANGER, STRANGER)
    for named in (True, False):
        with pytest.raises(UntrustedSocket, match=f"symbolic link {link} belongs to user"):
            check_socket_place(str(link / "s"), named=named)


def test_where_a_link_leads_is_judged(open_folder: Path) -> None:
    wide = made(open_folder / "wide", 0o777)
    inner = made(wide / "inner", 0o700)
    for target in (str(inner), "wide/inner", "../" + open_folder.name + "/wide/inner"):
        link = open_folder / "link"
        link.symlink_to(target)
        with pytest.raises(UntrustedSocket, match=f"write to the folder .*{wide.name} "):
            check_socket_place(str(link / "s"), named=False)
        link.unlink()


def test_a_way_that_leads_nowhere_is_left_to_the_connection(open_folder: Path) -> None:
    (open_folder / "loop").symlink_to("loop")
    (open_folder / "file").touch()
    for name in ("loop", "file"):
        check_socket_place(str(open_folder / name / "s"), named=False)


@needs_root
def test_nobody_is_a_stranger_outside_of_user_namespaces(open_folder: Path) -> None:
    theirs = made(open_folder / "theirs", uid=NOBODY)
    with pytest.raises(UntrustedSocket, match=f"belongs to user {NOBODY}"):
        check_socket_place(str(theirs / "s"), named=False)


@needs_root
def test_in_a_user_namespace_foreign_owners_show_as_nobody(open_folder: Path) -> None:
    """The host's root is one of these foreign owners, and / belongs to it."""
    theirs = made(open_folder / "theirs", uid=STRANGER)
    program = (
        "import os; from streamer_client.connecting.trust import check_socket_place\n"
        f"assert os.stat('{theirs}').st_uid == {NOBODY}\n"
        f"check_socket_place('{theirs}/s', named=False)"
    )
    unshare = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces can be made here")
    subprocess.run([*unshare, sys.executable, "-c", program], check=True)


def test_the_users_that_a_namespace_sees(tmp_path: Path) -> None:
    uid_map = tmp_path / "uid_map"
    for text, all_of_them in (("0 0 4294967295\n", True), ("0 1000 1\n1 100000 65536\n", False)):
        uid_map.write_text(text)
        assert _sees_all_users(uid_map) == all_of_them
    assert _sees_all_users(tmp_path / "nothing")


# --- who listens ----------------------------------------------------------------------------------


def test_the_kernel_says_who_listens(open_folder: Path) -> None:
    with (
        listening(open_folder / "s"),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(open_folder / "s"))
        assert peer_of(client) == (os.getpid(), os.geteuid(), os.getegid())


def test_ourselves_and_root_are_believed_anywhere() -> None:
    for uid in (os.geteuid(), 0):
        check_peer(uid, "/tmp/streamerd-1/control.sock", named=False)


@needs_root
def test_a_stranger_is_believed_in_a_folder_that_was_named_for_them(open_folder: Path) -> None:
    theirs = made(open_folder / "theirs", uid=STRANGER)
    check_peer(STRANGER, str(theirs / "s"), named=True)
    for uid, named in ((STRANGER, False), (STRANGER + 1, True)):
        with pytest.raises(UntrustedSocket, match=f"user {uid} listens at {theirs}/s") as refused:
            check_peer(uid, str(theirs / "s"), named=named)
        assert "nothing was sent" in str(refused.value)


@needs_root
def test_a_stranger_that_listens_in_a_sticky_folder_is_refused(open_folder: Path) -> None:
    sticky = made(open_folder / "sticky", 0o1777)
    check_socket_place(str(sticky / "s"), named=True)
    with pytest.raises(UntrustedSocket):
        check_peer(STRANGER, str(sticky / "s"), named=True)


# --- the socket to use ----------------------------------------------------------------------------


@pytest.fixture
def environ(open_folder: Path) -> dict[str, str]:
    if os.path.exists(SYSTEM_SOCKET):
        pytest.skip("a system daemon runs here and would be found first")
    return {
        "XDG_RUNTIME_DIR": str(made(open_folder / "run", 0o700)),
        "HOME": str(made(open_folder / "home", 0o700)),
    }


UNUSED_UID = 4_000_111_222
"""A user id of nobody, so that /tmp has no folder of that name."""


def test_what_is_named_comes_first(environ: dict[str, str]) -> None:
    named = environ | {"STREAMERD_SOCKET": "/named/s"}
    assert find_socket(named, UNUSED_UID) == SocketPlace("/named/s", True)
    assert find_socket(named, UNUSED_UID, "/flag/s") == SocketPlace("/flag/s", True)
    assert find_socket(environ, UNUSED_UID, "s") == SocketPlace(os.path.abspath("s"), True)


def test_a_relative_socket_in_a_directory_that_was_removed(
    environ: dict[str, str], open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = made(open_folder / "gone", 0o700)
    monkeypatch.chdir(gone)
    gone.rmdir()
    for look in (
        lambda: find_socket(environ, UNUSED_UID, "s"),
        lambda: find_socket(environ | {"STREAMERD_SOCKET": "s"}, UNUSED_UID),
        lambda: check_socket_place("s", named=True),
        lambda: check_peer(UNUSED_UID, "s", named=True),
    ):
        with pytest.raises(ConfigError, match="working directory was removed"):
            look()
    assert find_socket(environ, UNUSED_UID, "/flag/s") == SocketPlace("/flag/s", True)


def test_with_no_socket_anywhere_it_is_the_first_usable_place(
    environ: dict[str, str], open_folder: Path
) -> None:
    first = f"{open_folder}/run/streamerd/control.sock"
    assert find_socket(environ, UNUSED_UID) == SocketPlace(first, False)
    too_long = environ | {"XDG_RUNTIME_DIR": f"{open_folder}/{'x' * 90}"}
    second = f"/tmp/streamerd-{UNUSED_UID}/control.sock"
    assert find_socket(too_long, UNUSED_UID).path == second
    (open_folder / "file").touch()
    unusable = environ | {"XDG_RUNTIME_DIR": f"{open_folder}/file"}
    assert find_socket(unusable, UNUSED_UID).path == second


def test_a_socket_at_a_later_place_is_found(environ: dict[str, str], open_folder: Path) -> None:
    folder = open_folder / "home" / ".cache" / "streamerd"
    folder.mkdir(parents=True, mode=0o700)
    (open_folder / "home" / ".cache").chmod(0o700)
    with listening(folder / "control.sock"):
        assert find_socket(environ, UNUSED_UID) == SocketPlace(f"{folder}/control.sock", False)


def test_a_socket_where_others_may_write_is_passed_over_with_a_word(
    environ: dict[str, str], open_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt = made(open_folder / "run" / "streamerd")
    spoilt.chmod(0o777)
    with listening(spoilt / "control.sock"):
        found = find_socket(environ, UNUSED_UID)
    assert found.path == f"/tmp/streamerd-{UNUSED_UID}/control.sock"
    assert f"event=place_not_used socket={spoilt}/control.sock" in caplog.text


def test_places_that_are_only_tried_are_named_by_nobody(environ: dict[str, str]) -> None:
    for path in (SYSTEM_SOCKET, "/tmp/streamerd-7/control.sock"):
        assert not is_named(path, environ, 7)
    assert not is_named(f"{environ['XDG_RUNTIME_DIR']}/streamerd/control.sock", environ, 7)
    assert is_named("/tmp/streamerd-8/control.sock", environ, 7)


@needs_root
def test_a_runtime_folder_of_somebody_else_is_no_place(
    environ: dict[str, str], open_folder: Path
) -> None:
    """This is the situation after `su`, which keeps XDG_RUNTIME_DIR."""
    found = as_user(ME, lambda: find_socket(environ, ME).path)
    assert found == f"/tmp/streamerd-{ME}/control.sock"
