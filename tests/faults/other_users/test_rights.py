"""Each user gets exactly the bytes that it may read itself, and slabs belong to the
daemon alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer_client.contract.handover import Refused
from streamer_client.contract.limits import MAX_CLIENTS_PER_USER
from streamer_client.contract.messages import Failed, GetStatus, Status
from streamer_client.contract.socket import descriptor_socket
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.descriptor_peer import DescriptorPeer, greeting_of
from tests.support.visitor import Visitor, digests_of
from tests.support.worlds import (
    GROUP,
    MEMBER,
    OTHER_MEMBER,
    SERVICE,
    STRANGER,
    as_member,
    as_user,
    give,
    needs_root,
    shards_of,
    totals_of,
)

pytestmark = needs_root()


def test_a_model_in_a_closed_home_is_served_from_memory(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """The service's user may not enter that home, and need not."""
    before = totals_of(service.socket)["source_read_bytes"]
    for resident_bytes in (0, 3 * BLOCK):
        with Visitor(as_member()) as client:
            found = client.load(service.socket, home / "m")
        assert found["digests"] == digests_of(model)
        assert (found["mode"], found["resident_bytes"]) == ("daemon", resident_bytes)
    assert totals_of(service.socket)["source_read_bytes"] - before == 3 * BLOCK


def test_two_users_of_one_file_share_what_is_in_memory(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """Each user reads through a descriptor of its own, also after the user who came
    first has left.
    """
    home.chmod(0o755)
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        owner.kill()
        found = other.load(service.socket, home / "m")
    assert (found["resident_bytes"], found["digests"]) == (3 * BLOCK, digests_of(model))


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_another_member_gets_nothing_of_a_closed_home(
    service: DaemonProcess, home: Path, model: list[Path], mode: str
) -> None:
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        other.ask("connect", socket=service.socket, mode=mode)
        for do in ("open", "prefetch", "pin", "evict"):
            refused = other.refused(do, source=str(model[0]))
            assert refused.kind in ("SourceForbidden", "SourceNotFound"), refused.text
    rows = [row for row in shards_of(service.socket) if row["uri"] == str(model[0])]
    assert [row["resident_bytes"] for row in rows] == [3 * BLOCK]


def test_a_file_of_the_services_own_user_is_not_to_be_had_through_it(
    service: DaemonProcess, run: Path
) -> None:
    """The daemon may read the file; the user who asks for it may not."""
    files = write_model(run / "own", shards=1, blocks=1)
    give(files, SERVICE, 0o600)
    with Visitor(as_member()) as client:
        client.ask("connect", socket=service.socket)
        assert client.refused("open", source=str(files[0])).kind == "SourceForbidden"
        assert client.refused("prefetch", source=str(files[0])).kind == "SourceForbidden"


def test_a_file_that_was_closed_to_a_user_after_it_was_cached(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """Bytes in memory give nobody a right: each new client's own right to the file counts."""
    home.chmod(0o755)
    with Visitor(as_member(OTHER_MEMBER)) as other:
        other.load(service.socket, home / "m")
        model[0].chmod(0o600)
        assert other.refused("open", source=str(home / "m")).kind == "SourceForbidden"
    with Visitor(as_member()) as owner:
        assert owner.load(service.socket, home / "m")["resident_bytes"] == 3 * BLOCK


def test_a_path_alone_is_no_right(service: DaemonProcess, home: Path, model: list[Path]) -> None:
    """An O_PATH descriptor of a file that is closed to this user, in a folder that it may read,
    passes `fstat` and nothing more.
    """
    home.chmod(0o755)
    model[0].chmod(0o600)
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        asked = {"socket": service.socket, "path": str(model[0]), "flags": os.O_PATH}
        assert other.ask("pass_by_hand", **asked)["answer"] == "source-forbidden"


def test_a_file_that_may_only_be_written_is_not_to_be_read_through_the_daemon(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    home.chmod(0o755)
    model[0].chmod(0o602)
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        owner.load(service.socket, home / "m")
        asked = {"socket": service.socket, "path": str(model[0]), "flags": os.O_WRONLY}
        assert other.ask("pass_by_hand", **asked)["answer"] == "source-forbidden"


def test_a_member_unpins_only_what_it_pinned(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    home.chmod(0o755)
    source = str(model[0])
    with Visitor(as_member()) as owner, Visitor(as_member(OTHER_MEMBER)) as other:
        for client in (owner, other):
            client.load(service.socket, home / "m")
        owner.ask("pin", source=source)
        assert other.refused("unpin", source=source).kind == "RequestRefused"
        assert other.refused("evict", source=source).kind == "RequestRefused"
        owner.ask("unpin", source=source)
        other.ask("evict", source=source)


def test_a_member_reads_its_slabs_and_can_do_nothing_else_with_them(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    with Visitor(as_member()) as client:
        client.ask("connect", socket=service.socket)
        client.ask("open", source=str(home / "m"))
        found = client.ask("read")
        pried = client.ask("pry")
        assert (pried["descriptors"], pried["broken"]) == (1, [])
        assert pried["names"] >= 1
    with Visitor(as_member()) as client:
        assert client.load(service.socket, home / "m")["digests"] == found["digests"]


def test_nobody_but_the_daemon_has_a_right_to_a_slab_by_name(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """The group has no right to slabs by name either: members share only the files that each may
    read.
    """
    with Visitor(as_member()) as client:
        client.load(service.socket, home / "m")
    for name in service.segments():
        found = os.stat(f"/dev/shm/{name}")
        assert (found.st_mode & 0o777, found.st_uid) == (0o600, SERVICE)
    for command in (as_user(OTHER_MEMBER, GROUP), as_user(STRANGER)):
        with Visitor(command) as other:
            assert other.ask("pry")["broken"] == []


def test_a_mate_of_the_users_primary_group_gets_nothing_from_the_users_own_daemon(
    daemon_maker: Daemons, home: Path, model: list[Path]
) -> None:
    """By default, the socket and the slabs belong to the user alone."""
    daemon = daemon_maker.make(socket_path=home / "control.sock", before=as_user(MEMBER)).start()
    home.chmod(0o755)
    mate = as_user(OTHER_MEMBER, MEMBER)
    with Visitor(as_user(MEMBER)) as owner, Visitor(mate) as other:
        owner.load(daemon.socket, home / "m")
        assert other.refused("connect", socket=daemon.socket).kind in (
            "RequestRefused",
            "UntrustedSocket",
        )
        assert other.ask("pry")["broken"] == []
    for path in (daemon.socket, descriptor_socket(daemon.socket)):
        assert os.stat(path).st_mode & 0o777 == 0o600
    assert daemon.sidecars.stat().st_mode & 0o077 == 0


def test_a_stranger_to_the_group_cannot_connect(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    with Visitor(as_user(STRANGER)) as client:
        refused = client.refused("connect", socket=service.socket)
    assert refused.kind == "RequestRefused"
    assert "group" in refused.text


def test_a_token_is_of_no_use_to_another_connection(service: DaemonProcess) -> None:
    """A client that knows another client's token is still not that client: a token is good for one
    connection.
    """
    with DescriptorPeer(service.socket) as owner, DescriptorPeer(service.socket) as thief:
        thief.send(GetStatus(7), token=owner.token)
        assert isinstance(thief.message(), Failed)
        owner.send(GetStatus(8))
        assert isinstance(owner.message(), Status)


@pytest.mark.parametrize("suffix", [".lock", ".instance", "", ".fd", ".slabs"])
def test_a_link_in_the_place_of_a_daemons_file_is_refused_and_its_target_untouched(
    daemon_maker: Daemons, home: Path, suffix: str
) -> None:
    victim = home / "precious"
    victim.write_text("kept")
    give([victim], MEMBER, 0o600)
    link = home / f"control.sock{suffix}"
    link.symlink_to(victim)
    os.chown(link, MEMBER, MEMBER, follow_symlinks=False)
    daemon = daemon_maker.make(socket_path=home / "control.sock", before=as_user(MEMBER))
    assert daemon.run_to_its_end() == 78
    assert str(link) in daemon.log
    assert victim.read_text() == "kept"
    link.unlink()


def test_root_serves_others_only_where_that_is_meant(daemon_maker: Daemons, tmp_path: Path) -> None:
    daemon = daemon_maker.make("--socket-mode=0660")
    assert daemon.run_to_its_end() == 78
    assert "allow_root" in daemon.log
    assert daemon_maker.start("--socket-mode=0660", "--allow-root").stop() == 0


def test_clients_for_each_user_are_bounded_and_others_still_served(
    service: DaemonProcess, home: Path, model: list[Path]
) -> None:
    """A member that connects without end shuts nobody else out."""
    taken = []
    try:
        while True:
            connection, packet = greeting_of(service.socket)
            taken.append(connection)
            if isinstance(packet, Refused):
                break
            assert len(taken) <= MAX_CLIENTS_PER_USER
        assert packet.code == "refused"
        with Visitor(as_member()) as client:
            assert client.load(service.socket, home / "m")["mode"] == "daemon"
    finally:
        for connection in taken:
            connection.close()
