"""Where the socket is looked for, in INTERFACE's order."""

from __future__ import annotations

from streamer_client.contract.socket import (
    MAX_SOCKET_PATH_BYTES,
    SYSTEM_SOCKET,
    default_socket,
    instance_of,
    user_socket,
)


def there(path: str) -> bool:
    return path == SYSTEM_SOCKET


def nowhere(path: str) -> bool:
    return False


def test_the_environment_names_it_first() -> None:
    environ = {"STREAMERD_SOCKET": "/s", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert default_socket(environ, 7, there) == "/s"


def test_then_the_system_daemon_then_this_users() -> None:
    environ = {"STREAMERD_SOCKET": "", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert default_socket(environ, 7, there) == "/run/streamerd/control.sock"
    assert default_socket(environ, 7, nowhere) == "/run/user/7/streamerd/control.sock"
    assert default_socket({}, 7, nowhere) == "/tmp/streamerd-7/control.sock"


def test_default_paths_fit_a_socket_address() -> None:
    assert len(user_socket({}, 2**32 - 2).encode()) <= MAX_SOCKET_PATH_BYTES


def test_instance_tells_sockets_apart_and_is_stable() -> None:
    assert instance_of("/a") != instance_of("/b")
    assert instance_of("/run/streamerd/control.sock") == "074f8e10"
