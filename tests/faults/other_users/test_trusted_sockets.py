"""The users whose sockets a client trusts: its own user, root, or the service at its place, and
nobody else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.squatter import Squatter
from tests.support.visitor import Visitor, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import (
    GROUP,
    MEMBER,
    STRANGER,
    as_member,
    as_user,
    needs_root,
)

pytestmark = needs_root()


@pytest.fixture
def squatter() -> Iterator[Squatter]:
    """Another user's program at the place below /tmp where a user's own daemon would be."""
    squatter = Squatter(Path(f"/tmp/streamerd-{MEMBER}"), STRANGER)
    yield squatter
    squatter.end()


def test_a_socket_that_another_user_made_first_is_not_used(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    with Visitor(as_user(MEMBER)) as client:
        refused = client.refused("connect", socket=str(squatter.path))
        assert refused.kind == "UntrustedSocket"
        assert str(STRANGER) in refused.text


def test_where_another_user_was_first_the_next_place_is_taken(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    """With `auto`, the client starts its user's own daemon below the user's home."""
    environ = {
        "XDG_RUNTIME_DIR": "",
        "HOME": str(home),
        "STREAMERD_MEMORY_LIMIT": str(16 << 20),
    }
    with Visitor(as_user(MEMBER), environ) as client:
        found = client.ask("connect", socket=None, mode="auto")
        try:
            assert found["socket"] not in (None, str(squatter.path))
            client.ask("open", source=str(home / "m"))
            assert client.ask("read")["digests"] == digests_of(model)
            assert squatter.connections() == 0
        finally:
            _end_own(client, Path(found["socket"]))


def _end_own(client: Visitor, path: Path) -> None:
    pid = client.ask("status")["pid"]
    client.ask("leave")
    # SIGINT, which a terminal sends too, makes the daemon remove its slabs as it ends.
    os.kill(pid, signal.SIGINT)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    for left in path.parent.iterdir():
        left.unlink()
    path.parent.rmdir()


def test_where_only_another_user_listens_required_fails_and_auto_reads_by_itself(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    """The same holds where the environment names that place."""
    environ = {"STREAMERD_SOCKET": str(squatter.path)}
    with Visitor(as_user(MEMBER), environ) as client:
        assert client.refused("connect", socket=None).kind == "UntrustedSocket"
        assert client.ask("connect", socket=None, mode="auto")["socket"] is None
        client.ask("open", source=str(home / "m"))
        found = client.ask("read")
    assert (found["mode"], found["digests"]) == ("direct", digests_of(model))
    assert squatter.connections() == 0


def test_a_link_to_another_users_socket_is_not_followed(
    squatter: Squatter, home: Path, model: list[Path]
) -> None:
    """The folder belongs to this user, but a link in it leads to another user's socket."""
    own = home / "own"
    own.mkdir()
    os.chown(own, MEMBER, MEMBER)
    for suffix in ("", ".fd"):
        (own / f"control.sock{suffix}").symlink_to(f"{squatter.path}{suffix}")
    with Visitor(as_user(MEMBER)) as client:
        assert client.refused("connect", socket=str(own / "control.sock")).kind == "UntrustedSocket"


def test_a_folder_that_the_group_may_write_to_is_not_trusted(
    service: DaemonProcess, run: Path
) -> None:
    """A member of the group could put another socket into the folder at any time."""
    run.chmod(0o775)
    with Visitor(as_member()) as client:
        refused = client.refused("connect", socket=service.socket)
    run.chmod(0o755)
    assert refused.kind == "UntrustedSocket"
    assert f"group {GROUP}" in refused.text
