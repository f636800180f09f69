"""The places where the socket is looked for, in INTERFACE's order."""

from __future__ import annotations

from streamer_client.contract.socket import (
    MAX_SOCKET_PATH_BYTES,
    SUN_PATH_BYTES,
    SYSTEM_SOCKET,
    default_socket,
    descriptor_socket,
    socket_candidates,
)

ENVIRON = {"STREAMERD_SOCKET": "", "XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/u/"}
OWN = (
    "/run/user/7/streamerd/control.sock",
    "/tmp/streamerd-7/control.sock",
    "/home/u/.cache/streamerd/control.sock",
)


def chosen(answering: tuple[str, ...], usable: tuple[str, ...], **environ: str) -> str:
    return default_socket(ENVIRON | environ, 7, answering.__contains__, usable.__contains__)


def test_the_environment_names_it_first() -> None:
    assert chosen((SYSTEM_SOCKET, *OWN), OWN, STREAMERD_SOCKET="/s") == "/s"


def test_then_the_system_daemon_then_this_users() -> None:
    assert chosen((SYSTEM_SOCKET, *OWN), OWN) == SYSTEM_SOCKET
    assert chosen(OWN[1:], OWN) == OWN[1]
    assert chosen(OWN[2:], OWN) == OWN[2]


def test_where_none_answers_it_is_the_first_usable_place() -> None:
    for first in range(3):
        assert chosen((), OWN[first:]) == OWN[first]
    assert chosen((), ()) == OWN[0]


def test_places_of_this_users_own() -> None:
    assert socket_candidates(ENVIRON, 7) == OWN
    assert socket_candidates({}, 7) == OWN[1:2]
    assert socket_candidates({"XDG_RUNTIME_DIR": "run", "HOME": ""}, 7) == OWN[1:2]


def test_default_paths_fit_a_socket_address() -> None:
    (path,) = socket_candidates({}, 2**32 - 2)
    assert len(path.encode()) <= MAX_SOCKET_PATH_BYTES


def test_the_longest_control_socket_leaves_room_for_its_descriptor_socket() -> None:
    assert len(descriptor_socket("/".ljust(MAX_SOCKET_PATH_BYTES, "s"))) == SUN_PATH_BYTES
